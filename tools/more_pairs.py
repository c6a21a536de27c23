#!/usr/bin/env python
"""Make more training pairs out of English-to-French ones: own translations, first words, phrases.

python tools/more_pairs.py train.tsv.xz more.tsv --model en-fr/latest --beams 4

The output holds all pairs that were given and, in one shuffled order,

* each source with the model's own translation of the whole of it, if that is near one of the
  references: it is often simpler to say word by word than they are (sequence-level distillation,
  Kim and Rush, 2016, https://aclanthology.org/D16-1139);
* pairs that begin with what a talk begins its sentences with ("Then", "So", "In fact,"), made of
  pairs that do not: collected sentences stand alone, and hardly ever begin so;
* the pairs of tools/phrases.tsv, several times each: greetings, times, meetings, what is said in
  talks and in restaurants. A word in capitals stands for an hour, a day, a number or a name.

Translations are kept beside the output, so the same command resumes; for another model or another
number of beams, name another output. Without --model there are none.
"""

from __future__ import annotations

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import argparse
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from rich.progress import track
from sacrebleu.metrics.chrf import CHRF

from mlx_simul.checkpoints.loading import load
from mlx_simul.errors import DataError
from mlx_simul.evaluation.pairs import Pair, read_pairs
from mlx_simul.events import Finished
from mlx_simul.machine.files import replacing_file
from mlx_simul.serving.sessions import Sessions

NEAR_CHRF = 60.0
"""A translation nearer to a reference than this is taken to mean the same."""

EQUAL_CHRF = 99.9
"""One nearer than this adds nothing."""

FIRST_WORDS = {
    "Then": ("Puis", "Alors"),
    "Then,": ("Puis,",),
    "And then": ("Et puis",),
    "So": ("Alors",),
    "So,": ("Donc,",),
    "And": ("Et",),
    "But": ("Mais",),
    "Now": ("Maintenant,",),
    "Now,": ("Maintenant,",),
    "Or": ("Ou",),
    "Yet": ("Pourtant,",),
    "Still,": ("Pourtant,",),
    "Also,": ("De plus,",),
    "Next,": ("Ensuite,",),
    "First,": ("D'abord,",),
    "At first,": ("Au début,",),
    "Finally,": ("Enfin,",),
    "In the end,": ("Finalement,",),
    "After that,": ("Après cela,",),
    "Later,": ("Plus tard,",),
    "Meanwhile,": ("Pendant ce temps,",),
    "Once again,": ("Encore une fois,",),
    "This time,": ("Cette fois,",),
    "The next day,": ("Le lendemain,",),
    "Today,": ("Aujourd'hui,",),
    "Last year,": ("L'année dernière,",),
    "Sometimes": ("Parfois,",),
    "Suddenly,": ("Soudain,",),
    "However,": ("Cependant,",),
    "Anyway,": ("De toute façon,",),
    "In fact,": ("En fait,",),
    "Actually,": ("En fait,",),
    "Of course,": ("Bien sûr,",),
    "For example,": ("Par exemple,",),
    "In other words,": ("Autrement dit,",),
    "That's why": ("C'est pourquoi",),
    "Unfortunately,": ("Malheureusement,",),
    "Fortunately,": ("Heureusement,",),
    "Yes,": ("Oui,",),
    "No,": ("Non,",),
    "Oh,": ("Oh,",),
    "Well,": ("Eh bien,",),
    "Right,": ("Bon,",),
    "All right,": ("D'accord,",),
    "Okay,": ("D'accord,",),
    "Okay, so": ("Bon, alors",),
    "You know,": ("Tu sais,",),
    "Look,": ("Écoute,",),
    "I mean,": ("Je veux dire,",),
    "Thank you,": ("Merci,",),
    "Because": ("Parce que",),
    "Maybe": ("Peut-être que",),
    "Perhaps": ("Peut-être que",),
    "I think": ("Je pense que",),
    "I think that": ("Je pense que",),
}
"""What may stand before a sentence, with its translations."""

FREQUENT = tuple(islice(FIRST_WORDS, 8))
"""A third of the pairs begin with one of these."""

BEFORE_QUESTIONS = {
    *("Then", "And then", "So", "So,", "And", "But", "Or", "Anyway,", "Yes,", "Oh,", "Well,"),
    *("Right,", "Okay,", "Okay, so"),
}

_NUMBERS = (
    *("two deux", "three trois", "four quatre", "five cinq", "six six", "seven sept", "eight huit"),
    *("nine neuf", "ten dix", "eleven onze", "twelve douze", "fifteen quinze", "twenty vingt"),
    *("thirty trente", "forty quarante", "fifty cinquante"),
)
_DAYS = (
    *("Monday lundi", "Tuesday mardi", "Wednesday mercredi", "Thursday jeudi", "Friday vendredi"),
    *("Saturday samedi", "Sunday dimanche"),
)
_MONTHS = (
    *("January janvier", "February février", "March mars", "April avril", "May mai", "June juin"),
    *("July juillet", "August août", "September septembre", "October octobre"),
    *("November novembre", "December décembre"),
)
# None begins with a vowel, before which "de" would be "d'".
_NAMES = "Anna Peter David Claire Lisa John Maria Paul Sarah Thomas Julia Martin Sophie Nicolas Tom"
_CITIES = "Paris Lyon Berlin Madrid Boston Tokyo Dublin Chicago Toronto Marseille Bordeaux Zurich"


def _both(rows: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((source, target) for source, _, target in (row.partition(" ") for row in rows))


SLOTS = {
    "HOUR": (("one", "une heure"), *((a, f"{b} heures") for a, b in _both(_NUMBERS[:10]))),
    "NUMBER": (*_both(_NUMBERS), *((str(n), str(n)) for n in (2, 3, 6, 9, 11, 14, 24, 35, 60, 90))),
    "DAY": _both(_DAYS),
    "MONTH": _both(_MONTHS),
    "NAME": tuple((name, name) for name in _NAMES.split()),
    "CITY": tuple((city, city) for city in _CITIES.split()),
}
"""What words in capitals stand for in phrases, in both languages."""

PHRASES = Path(__file__).with_name("phrases.tsv")

# What begins sentences in lower case elsewhere, or keeps its capital in both languages.
_BEGINNINGS = {
    r"I|I'm|I've|I'd|I'll": r"Je|J'|Il|Ça|C'|Mon|Ma|Mes",
    r"We|We're|We've|We'll": r"Nous|On",
    r"He|He's": r"Il",
    r"She|She's": r"Elle",
    r"They|They're": r"Ils|Elles|On",
    r"You|You're": r"Tu|Vous|T'|On",
    r"It|It's": r"Il|C'|Ça|Cela|Elle",
    r"There|There's": r"Il",
    r"The": r"Le|La|Les|L'",
    r"My": r"Mon|Ma|Mes",
    r"His|Her": r"Son|Sa|Ses",
    r"Our": r"Notre|Nos",
    r"This|That|These": r"Ce|Cet|Cette|Ces|C'|Ceci|Cela|Ça",
    r"People": r"Les|Des",
    r"Someone": r"Quelqu'un",
    r"Everyone|Everybody": r"Tout",
    r"Nobody": r"Personne",
    r"Nothing": r"Rien",
    r"Tom": r"Tom",
    r"Mary": r"Mary",
    r"What": r"Qu'|Que|Quel|Quelle",
    r"Why": r"Pourquoi",
    r"Where": r"Où",
    r"How": r"Comment",
}
_KEEPS_CAPITAL = re.compile(r"(I|I'\w+|Tom|Mary)\b")
_IS_QUESTION = re.compile(r"(What|Why|Where|How)\b")
_PATTERNS = [
    (re.compile(rf"({source})(?!\S)"), re.compile(rf"({target})"))
    for source, target in _BEGINNINGS.items()
]


def with_first_words(pairs: Sequence[Pair], n_pairs: int, seed: int = 0) -> Iterator[Pair]:
    """Pairs that begin with other words than those they are made of.

    Args:
        pairs: from which those are drawn whose first words are known in both languages.
        n_pairs: how many are drawn; first words that do not suit a sentence are left out.
        seed: of the choice.
    """
    rng = random.Random(seed)
    suited = [pair for pair in pairs if _is_suited(pair)]
    for _ in range(n_pairs if suited else 0):
        pair = rng.choice(suited)
        is_question = pair.source.endswith("?")
        if bool(_IS_QUESTION.match(pair.source)) and not is_question:
            continue
        first = rng.choice(FREQUENT if rng.random() < 1 / 3 else tuple(FIRST_WORDS))
        if is_question and first not in BEFORE_QUESTIONS:
            continue
        target_first = rng.choice(FIRST_WORDS[first])
        if is_question and target_first in ("Puis", "Alors", "Bon, alors"):
            target_first += ","
        target = _uncapitalised(pair.target)
        if target_first.endswith(" que") and re.match(r"(ils?|elles?|on)\b", target):
            target_first = f"{target_first[:-1]}'"
        space = "" if target_first.endswith("'") else " "
        source = f"{first} {_uncapitalised(pair.source)}"
        yield Pair(source, f"{target_first}{space}{target}")


def with_slots(phrases: Sequence[Pair], n_copies: int, seed: int = 0) -> Iterator[Pair]:
    """Each phrase a number of times, each time with other words in its slots.

    Args:
        phrases: that may have one of :data:`SLOTS`, in both languages.
        n_copies: of each.
        seed: of the choice.
    """
    rng = random.Random(seed)
    for phrase in phrases:
        slot = next((slot for slot in SLOTS if re.search(rf"\b{slot}\b", phrase.source)), None)
        for _ in range(n_copies):
            if slot is None:
                yield phrase
            else:
                source, target = rng.choice(SLOTS[slot])
                yield Pair(phrase.source.replace(slot, source), phrase.target.replace(slot, target))


def near_references(
    translations: Iterator[Pair], references: dict[str, list[str]]
) -> Iterator[Pair]:
    """Those translations that are near a reference of their source, but not equal to it."""
    metric = CHRF()
    for pair in translations:
        scores = [
            metric.sentence_score(pair.target, [reference]).score
            for reference in references[pair.source]
        ]
        if NEAR_CHRF <= max(scores, default=0.0) < EQUAL_CHRF:
            yield pair


def translate_all(
    model_folder: str,
    sources: Sequence[str],
    path: Path,
    *,
    num_beams: int = 1,
    n_shared: int = 128,
) -> None:
    """Write a model's translations of whole sources into a file, after those that are there.

    Args:
        model_folder: of the model.
        sources: all of them, always in the same order.
        path: a line for each, with its translation after a tab; nothing stands there if the
            translation did not come to its end.
        num_beams: how many hypotheses are searched; more of them cost more passes.
        n_shared: how many translations share a pass.

    Raises:
        DataError: if the file holds translations of other sources.
    """
    model, tokenizer = load(model_folder, dequantize=True)
    with path.open("a+", encoding="utf-8") as file:
        file.seek(0)
        whole = [line for line in file if line.endswith("\n")]
        if [line.partition("\t")[0] for line in whole] != list(sources[: len(whole)]):
            raise DataError(f"{path} has translations of other sources; remove it.")
        # What was stopped may have left a part of a line.
        file.truncate(len("".join(whole).encode()))
        for start in track(range(len(whole), len(sources), n_shared), "translating"):
            batch = Sessions(model, tokenizer, policy="whole", turns=None, num_beams=num_beams)
            here, texts = {}, {}
            for source in sources[start : start + n_shared]:
                session = batch.add(max_tokens=64 + 8 * len(source.split()))
                session.push(source)
                session.close()
                here[session] = source
            for session, event in batch.events():
                if isinstance(event, Finished):
                    is_whole = event.reason != "length"
                    texts[session] = " ".join(event.target_text.split()) if is_whole else ""
            for session, source in here.items():
                file.write(f"{source}\t{texts[session]}\n")
            file.flush()


def _is_suited(pair: Pair) -> bool:
    return 3 <= len(pair.source.split()) <= 18 and any(
        source.match(pair.source) and target.match(pair.target) for source, target in _PATTERNS
    )


def _uncapitalised(text: str) -> str:
    return text if _KEEPS_CAPITAL.match(text) else text[0].lower() + text[1:]


def main() -> int:
    """Write the pairs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=Path, help="pairs to begin with")
    parser.add_argument("output", type=Path, help="a TSV file to write")
    parser.add_argument("--model", help="a model whose translations are added")
    parser.add_argument("--beams", type=int, default=1, help="to search them with (%(default)s)")
    parser.add_argument(
        "--first-words", type=int, default=9000, help="how many to draw (%(default)s)"
    )
    parser.add_argument(
        "--phrases", type=int, default=10, help="how often to use each (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} is there already; remove it, or name another file.")
    pairs = list(read_pairs(args.pairs))
    references: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        references[pair.source].append(pair.target)
    more = list(with_first_words(pairs, args.first_words, args.seed))
    print(f"{len(pairs)} pairs, {len(more)} with other first words", file=sys.stderr)
    more += with_slots(list(read_pairs(PHRASES)), args.phrases, args.seed)
    if args.model:
        # Sources of one length share passes best.
        sources = sorted(references, key=lambda source: (len(source.split()), source))
        path = args.output.with_suffix(".translations.tsv")
        translate_all(args.model, sources, path, num_beams=args.beams)
        lines = [line.split("\t") for line in path.read_text("utf-8").split("\n") if line]
        own = (Pair(source, target) for source, target in lines if target)
        kept = list(near_references(own, references))
        print(f"{len(kept)} of the model's own translations", file=sys.stderr)
        more += kept
    pairs += more
    random.Random(args.seed).shuffle(pairs)
    with replacing_file(args.output) as partial:
        text = "".join(f"{pair.source}\t{pair.target}\n" for pair in pairs)
        partial.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
