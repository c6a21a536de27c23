"""Where turns end: a function of the words alone, and as early as the words tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import pytest
import regex
from article_one import ARTICLE
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.text import turn_splitter as turns
from mlx_simul.text.segmenter import MAX_WORD_CHARS, PARAGRAPH, SourceSegmenter
from mlx_simul.text.speech import speech
from mlx_simul.text.turn_splitter import TurnBreak, TurnSplitter

Items = list[str | TurnBreak]

PIECES = [
    *["Dr. ", "U.S. ", "5. ", "3.5 ", "1,000 ", "a ", "word ", "Word ", "end. ", "End! ", "why? "],
    *[
        "so, ",
        "well; ",
        "— ",
        "- ",
        "… ",
        "... ",
        '"',
        "“",
        "” ",
        "« ",
        " »",
        "(",
        ") ",
        "? ",
        "! ",
    ],
    *[
        "你",
        "好",
        "，",
        "。",
        "！",
        "」",
        "「",
        "ที่",
        " ที่",
        "ครับ ",
        "है। ",
        "؟ ",
        "، ",
        "\n",
        "\n\n",
        "\0",
    ],
    *["ሰው፡ሰው", "፡ ", "www.a.b ", "I. ", "• ", "5 ", "¿Y ", "😀 ", "x" * 3000],
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=60).map("".join)
LANGUAGES = st.sampled_from([None, "English", "French", "German", "zh", "th"])
LIMITS = st.integers(1, 12) | st.just(40)


def words_of(chunks: Sequence[str]) -> list[str]:
    segmenter = SourceSegmenter(paragraphs=True)
    words = [word for chunk in chunks for word in segmenter.feed(chunk)]
    return words + segmenter.finish()


def split(words: Sequence[str], splitter: TurnSplitter) -> Items:
    return [item for word in words for item in splitter.add(word)] + splitter.finish()


def turns_of(items: Items) -> Iterator[tuple[list[str], str]]:
    """The words of each turn, and why it ended."""
    words: list[str] = []
    for item in items:
        if isinstance(item, TurnBreak):
            yield words, item.reason
            words = []
        else:
            words.append(item)
    assert not words


# Sentences. A "|" comes right behind its word, a "¦" with the next word, a "∎" with the end.


def marked(text: str, language: str | None, **options: object) -> str:
    splitter = TurnSplitter(language, **options)
    said = ""
    for word in words_of([text]):
        items = splitter.add(word)
        for i, item in enumerate(items):
            if isinstance(item, TurnBreak):
                assert item.reason == "sentence"
                said += "|" if i == len(items) - 1 else "¦"
            else:
                said += item
    items = splitter.finish()
    return said + "".join("∎" if isinstance(item, TurnBreak) else item for item in items)


SENTENCES = {
    "English": """
        Dr. Smith met Mr. X.¦ He left.|
        It was, e.g. here, fine.| Is it?| Yes!|
        We saw the U.S. Navy.| They live in the U.S.¦ The end.|
        He came at 7 p.m. and left.| At 7 p.m. Tom woke up.|
        It costs $3.50 or 1,000,000.5 yen.| See www.example.com.| Or https://a.b/c?d=e.f!|
        J. R. R. Tolkien wrote it with C. Smith.| It is you and I.¦ Did you know?|
        Well... maybe.| Well...¦ The end.| Wait… what?| Really?!¦ Yes.|
        He said "Stop. Go." and left.| "I am here," he said.| "You are there."¦ She left.|
        He said “I am old.¦ You are not.¦ That is all.”| Then it rained.|
        He said 'I am here.'¦ She left.|
        Here (she stayed.¦ He left.) it rained.| This (see p. 5) works.|
        He left in 1999.¦ "Come here," she said.| It was 2000. 5 people came.|
        1. Buy milk.| 2. Eat eggs.| The list: a) one b) two.| — (3) Sleep.|
        i went home.| then i slept.| was it good?| yes it was∎
        It is 5" tall.¦ It grew.∎
        No?| Give it to me.| He's here.| Vitamin C. is good∎
    """,
    "French": """
        Comment ça va ?¦ Bien !¦ C'est tout.| Vraiment ?!∎
        M. Dupont et Mme Martin, etc. sont là.| L'U.E. dit non.| 1 000 000,50 € !∎
        Il a dit : « Bonjour. »¦ Puis il est parti.| « Tu viens ? » demanda-t-il.|
        « Viens.¦ Pars.¦ Reste ! »¦ Elle rit.| « Il a dit “non”, oui. »∎
        Il est venu en 1999.¦ « Bonjour. »∎
        c'est bien.| je pars.|
    """,
    "German": """
        Am 5. März war z.B. Ruhe, am 3. Oktober usw. auch.¦ Das war schön.|
        „Komm. Geh.“¦ Dann ging sie.¦ Dann ging alles.| „Nein!“ rief Anna.¦ Nein!| Doch?|
        ich ging nach hause.| dann schlief ich im hause.|
    """,
    "Spanish": """
        ¿Cómo estás?| ¡Muy bien!| ¿Y tú?| El Sr. Pérez vive en EE. UU. con ella.|
        Dijo: «Hola. Adiós.»¦ Se fue.| ¡¿Qué?!| Nada.|
    """,
    "Chinese": """
        你好。|他说：“我来了。¦你呢？”|她笑了。|「一。¦二。」|三！！¦真的？！¦好……他走了。|
        人人生而自由,一律平等。|3.5元。|iPhone很好。|『第一。¦第二』他说。|没有∎
    """,
    "Japanese": "これは本です。|「はい。¦そうです。」|と言った。|本当！？¦はい。|（笑）終わり。|",
    "Thai": "สวัสดีครับ ผมชื่อสมชาย ผมมาจากกรุงเทพ∎",
    "Hindi": "यह किताब है।| वह घर है ।| क्या हाल है?| डॉ. राम आए।| ३.५ ठीक है।|",
    "Arabic": "كيف حالك؟| أنا بخير، شكراً!| جاء د. أحمد.| نعم؛ ثم ذهب.|",
    "Russian": "И. И. Иванов, т. е. он.| «Да. Нет.» сказал он.| В 2001 г. он жил в г. Москва.|",
    "Greek": "Τι κάνεις;| Καλά είμαι.| Ναι.|",
    "Armenian": "Ես եմ։| Դու ես։|",
    "Burmese": "ဟုတ်တယ်။| သူသွားပြီ။|",
    "Khmer": "នេះជាសៀវភៅ។| គាត់ទៅផ្ទះ។|",
    "Korean": "안녕하세요.| 저는 학생입니다.| 네?|",
    "nb": "Det er 5. mai.| Han kom.|",
    "Unheard of": "One.| Two∎",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_turns_are_sentences(language: str) -> None:
    for line in SENTENCES[language].strip().splitlines():
        expected = line.strip()
        assert marked(regex.sub("[|¦∎]", "", expected), language) == expected


def test_without_probes_every_break_would_wait() -> None:
    """Negative control: one that is only told real words."""

    class Patient(TurnSplitter):
        def _ends_here(self, word: str) -> bool:
            return False

    items = split(words_of(["I went home. She stayed."]), Patient("en"))
    eager = split(words_of(["I went home. She stayed."]), TurnSplitter("en"))
    assert [reason for _, reason in turns_of(items)] == ["sentence", "source_end"]
    assert [reason for _, reason in turns_of(eager)] == ["sentence", "sentence"]


@pytest.mark.parametrize("language", ["English", "French", "German", "Russian", "Chinese"])
def test_declarations_are_cut_at_their_full_stops(language: str) -> None:
    ends = {"Chinese": "。"}.get(language, ".")
    found = [
        "".join(words).strip()
        for words, _ in turns_of(split(words_of([ARTICLE[language]]), TurnSplitter(language)))
    ]
    assert found == [part.strip() + ends for part in ARTICLE[language].split(ends) if part.strip()]


# Laws


@given(TEXTS, LANGUAGES, LIMITS)
def test_the_words_come_out_in_order_each_once(text: str, language: str, limit: int) -> None:
    words = words_of([text])
    items = split(words, TurnSplitter(language, max_turn_words=limit))
    assert [item for item in items if isinstance(item, str)] == [
        word for word in words if word != PARAGRAPH
    ]


@given(TEXTS, st.lists(st.integers(0, 60), max_size=6), LANGUAGES, LIMITS)
def test_any_chunking_gives_the_same_turns(
    text: str, cuts: list[int], language: str, limit: int
) -> None:
    def items(chunks: Sequence[str]) -> Items:
        return split(words_of(chunks), TurnSplitter(language, max_turn_words=limit))

    ends = [*sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert items(chunks) == items([text]) == items(list(text))


def test_the_law_rejects_a_splitter_of_chunks() -> None:
    def ends(chunks: Sequence[str]) -> Items:
        return [item for chunk in chunks for item in split(words_of([chunk]), TurnSplitter("en"))]

    assert ends(["At 3.", "5 seconds."]) != ends(["At 3.5 seconds."])


def check_turns(items: Items, limit: int) -> None:
    for words, _ in turns_of(items):
        assert words
        # Words that only close the one before them do not count.
        spoken = [words[0]] + [word for word in words[1:] if not turns._CLOSING.fullmatch(word)]
        assert sum(map(speech, spoken), Fraction(0)) <= limit or len(spoken) == 1
        assert len(words) <= 12 * 9 * limit


@given(TEXTS, LANGUAGES, LIMITS)
def test_a_turn_has_a_word_and_at_most_so_much_speech(text: str, language: str, limit: int) -> None:
    check_turns(split(words_of([text]), TurnSplitter(language, max_turn_words=limit)), limit)


@pytest.mark.parametrize("broken", ["twice", "never"])
def test_the_law_rejects_turns_without_words_or_without_an_end(broken: str) -> None:
    class Broken(TurnSplitter):
        def _end(self, reason: str) -> Items:
            return super()._end(reason) + ([TurnBreak(reason)] if broken == "twice" else [])

        def _make_room(self, weight: Fraction) -> Items:
            return [] if broken == "never" else super()._make_room(weight)

    with pytest.raises(AssertionError):
        check_turns(split(words_of(["so " * 20]), Broken(max_turn_words=5)), 5)


def before_all_but_lowercase(text: str) -> list[str]:
    return regex.split(r"(?<=\S)\s+(?!\p{Ll})", text)


def first_words(words: Sequence[str], kind: type[TurnSplitter]) -> list[str]:
    found = turns_of(split(words, kind(splitter=before_all_but_lowercase)))
    return [turn[0].strip() for turn, _ in found]


@given(st.lists(st.sampled_from([" a", " B", " ?", " »", " !"]), max_size=8))
def test_a_break_that_waits_never_comes_before_a_closing_mark(words: list[str]) -> None:
    assert set(first_words(["a", *words], TurnSplitter)) <= {"a", "B"}


def test_the_law_rejects_a_splitter_that_knows_no_closing_marks() -> None:
    class Careless(TurnSplitter):
        def _closes(self, word: str) -> bool:
            return False

    assert first_words(["a", " ?", " B"], Careless) == ["a", "?", "B"]
    assert first_words(["a", " ?", " B"], TurnSplitter) == ["a", "B"]


@given(TEXTS, st.lists(st.integers(0, 40), max_size=5), LANGUAGES)
def test_end_turn_gives_what_is_held_and_nothing_right_after_a_break(
    text: str, pauses: list[int], language: str
) -> None:
    splitter, words, items = TurnSplitter(language, max_turn_words=8), words_of([text]), []
    for i, word in enumerate(words):
        items += splitter.add(word)
        if i in pauses:
            items += splitter.end_turn()
            assert isinstance(items[-1], TurnBreak)
            assert splitter.end_turn() == splitter.end_turn("blank_line") == []
    items += splitter.finish()
    assert [item for item in items if isinstance(item, str)] == [
        word for word in words if word != PARAGRAPH
    ]
    assert all(words for words, _ in turns_of(items))


# Forced cuts


def cuts(words: Sequence[str], limit: int) -> list[list[str]]:
    """Turns of words without sentences, by the rule as SPEC has it, with all words at hand."""
    left, found = [*words], []
    while len(left) > limit:
        at = [n for n in range(1, limit + 1) if 2 * n >= limit and left[n - 1][-1] in ",;:—"]
        n = max(at, default=limit)
        found.append(left[:n])
        left = left[n:]
    return [*found, left]


@given(st.lists(st.sampled_from([" so", " so", " well,", " then;", " —"]), min_size=1), LIMITS)
def test_a_cut_is_at_the_last_clause_mark_of_the_second_half(words: list[str], limit: int) -> None:
    splitter = TurnSplitter(max_turn_words=limit)
    found = list(turns_of(split(words, splitter)))
    assert [turn for turn, _ in found] == cuts(words, limit)
    assert [reason for _, reason in found[:-1]] == ["max_turn_words"] * (len(found) - 1)


def test_the_law_rejects_cuts_that_do_not_look_back() -> None:
    class Careless(TurnSplitter):
        def _note_mark(self) -> None:
            pass

    words = [" so", " so", " well,", " so", " so"]
    assert [turn for turn, _ in turns_of(split(words, Careless(max_turn_words=4)))] != cuts(
        words, 4
    )


def test_words_behind_a_clause_mark_are_held_until_they_are_decided() -> None:
    splitter = TurnSplitter(max_turn_words=6)
    released = [splitter.add(f" {word}") for word in ["a", "b", "c,", "d", "e,", "f", "g"]]
    assert released == [
        *[[" a"], [" b"], [" c,"], [], [" d", " e,"], []],
        [TurnBreak("max_turn_words"), " f", " g"],
    ]
    assert splitter.add(" end.") == [" end.", TurnBreak("sentence")]
    assert splitter.finish() == []


def test_a_sentence_releases_what_is_held() -> None:
    splitter = TurnSplitter(max_turn_words=6)
    for word in ["one", " two", " three,", " four"]:
        splitter.add(word)
    assert splitter.add(" end.") == [" four", " end.", TurnBreak("sentence")]


@pytest.mark.parametrize(
    ("mark", "language"),
    [
        *[(mark, "English") for mark in [",", ";", ":", " —", " –", " -", ',"', ",)", "…"]],
        *[("،", "Arabic"), ("؛", "Arabic"), (" ;", "French"), (" »,", "French"), (", »", "French")],
    ],
)
def test_clause_marks(mark: str, language: str) -> None:
    text = " ".join(["wo"] * 8) + mark + " " + " ".join(["wo"] * 20)
    turn, reason = next(
        turns_of(split(words_of([text]), TurnSplitter(language, max_turn_words=10)))
    )
    assert ("".join(turn), reason) == (" ".join(["wo"] * 8) + mark, "max_turn_words")


@pytest.mark.parametrize("mark", ["", "-", "'", "."])
def test_what_is_not_a_clause_mark(mark: str) -> None:
    """Negative control; with the full stop it is an abbreviation, "wo Dr. wo"."""
    text = f"{'wo ' * 7}Dr{mark}{' wo' * 20}"
    turn, _ = next(turns_of(split(words_of([text]), TurnSplitter("en", max_turn_words=10))))
    assert len(turn) == 10


@pytest.mark.parametrize(
    ("letter", "mark", "n_letters"), [("手", "，", 60), ("ก", " ", 160), ("カ", "、", 160)]
)
def test_forty_words_are_forty_words_of_speech_in_any_script(
    letter: str, mark: str, n_letters: int
) -> None:
    turn, _ = next(turns_of(split(words_of([letter * 500]), TurnSplitter(max_turn_words=40))))
    assert len(turn) == n_letters
    n_before = n_letters * 3 // 4
    text = letter * n_before + mark + letter * 500
    turn, _ = next(turns_of(split(words_of([text]), TurnSplitter(max_turn_words=40))))
    assert "".join(turn) == (letter * n_before + mark).strip()


def test_marks_do_not_count_and_stay_with_their_word() -> None:
    text = "un deux trois quatre ? Un deux trois quatre cinq !"
    found = [
        "".join(turn)
        for turn, _ in turns_of(split(words_of([text]), TurnSplitter("fr", max_turn_words=4)))
    ]
    assert found == ["un deux trois quatre ?", " Un deux trois quatre", " cinq !"]


# The stream goes on


def test_blank_lines_and_the_caller_end_a_turn() -> None:
    splitter = TurnSplitter()
    items = [
        item for word in words_of(["A title\n\nA text. \n\nthe"]) for item in splitter.add(word)
    ]
    items += [*splitter.end_turn(), *splitter.add(" end"), *splitter.finish()]
    assert [reason for _, reason in turns_of(items)] == [
        *["blank_line", "sentence", "end_turn", "source_end"],
    ]


def test_a_quotation_without_an_end_is_forgotten() -> None:
    def waits(text: str) -> list[bool]:
        """Whether a turn ended with the next word only."""
        return [mark == "¦" for mark in marked(text, "en") if mark in "|¦∎"]

    sentences = " It went on." * 12
    assert waits('It is 5" long.' + sentences) == [True] * 8 + [False] * 5
    assert waits("It is 5 long." + sentences) == [False] * 13
    splitter = TurnSplitter("en")
    for word in ["It", ' is 5"', " long."]:
        splitter.add(word)
    splitter.end_turn()
    splitter.add(" It")
    assert splitter.add(" is.") == [" is.", TurnBreak("sentence")]


def test_nothing_grows_with_the_stream_or_with_what_never_ends() -> None:
    for text in ["so", "? !", "፡", "(", "«", "-", "5.", "x" * MAX_WORD_CHARS]:
        splitter = TurnSplitter()
        for word in words_of([f"{text} " * 2000]):
            splitter.add(word)
            assert len(splitter._words) <= 12 * 9 * 40
            assert len(splitter._seen) <= turns._MAX_SEEN_CHARS
            assert len(splitter._closers) <= turns._MAX_OPEN


# A splitter of the caller's


def by_lines(text: str) -> list[str]:
    """Sentences end behind a tilde."""
    return [part + "~" for part in text.split("~")[:-1]] + [text.split("~")[-1]]


def test_a_splitter_of_the_callers_replaces_the_rules() -> None:
    assert marked("One~| Two. Three~| Four", None, splitter=by_lines) == "One~| Two. Three~| Four∎"


def needing_a_capital(text: str) -> list[str]:
    return regex.split(r"(?<=\.)\s+(?=\p{Lu})", text)


def test_it_is_asked_what_a_next_word_would_tell() -> None:
    # A short word may be an abbreviation; after a long one a sentence ends.
    expected = "Hey etc. go ahead now.¦ He went ahead.| It is so.¦ Yes∎"
    text = regex.sub("[|¦∎]", "", expected)
    assert marked(text, None, splitter=needing_a_capital) == expected


@pytest.mark.parametrize(
    "broken", [lambda text: [text[1:]], lambda text: text, lambda text: [text, text]]
)
def test_a_splitter_that_changes_text_is_refused(broken: Callable[[str], object]) -> None:
    with pytest.raises(InvalidOptionError, match="does not concatenate"):
        split(["One.", " Two."], TurnSplitter(splitter=broken))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_turn_words": 0}, "at least 1, got 0"),
        ({"max_turn_words": 2.5}, "at least 1, got 2.5"),
        ({"max_turn_words": True}, "at least 1, got True"),
        ({"splitter": "nltk"}, "splitter must be a function"),
        ({"language": 3}, "a name or a code"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        TurnSplitter(**options)


def test_a_finished_splitter_is_closed() -> None:
    splitter = TurnSplitter()
    assert splitter.finish() == []
    for call in (lambda: splitter.add("a"), splitter.end_turn, splitter.finish):
        with pytest.raises(SessionClosedError, match=r"after finish\(\)"):
            call()


def test_a_word_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="not bytes"):
        TurnSplitter().add(b"word")
