"""A target that ends long before its source does says so, and a short translation does not."""

from dataclasses import asdict
from fractions import Fraction

import pytest
from spelled import translate, words_of

from mlx_simul.console.live import EXIT_INCOMPLETE, exit_code
from mlx_simul.events import Finished
from mlx_simul.loop.drought import Balance, Sentences
from mlx_simul.loop.remarks import remark
from mlx_simul.text.speech import speech

TWO = "The train leaves at seven. My brother lives there with his wife."
MANY = " ".join(["The train leaves at seven o'clock from here."] * 6)


def dried_up(source, target, unanswered=""):
    """Whether a target dries up whose last word was written before the last words were read."""
    sentences = [Sentences(), Sentences()]
    for counted, text in zip(sentences, (source, target), strict=True):
        for word in words_of(text):
            counted.add(word)
    answered = speech(source) - speech(unanswered)
    return Balance(*sentences, answered).has_dried_up(speech(source), speech(target))


@pytest.mark.parametrize(
    ("source", "target", "unanswered"),
    [
        ("Yes.", "", ""),
        (TWO, "Le train part à sept heures.", "lives there with his wife."),
        (MANY, "Le train part à sept heures d'ici. Le train part.", ""),
        (MANY.replace(".", ""), "le train part à sept heures", ""),
        ("私は駅にいます。妻は家にいます。" * 3, "I am at the station.", ""),
        (MANY, "電車は七時に出ます。", ""),
        ("Good morning. How are you today?", "Bonjour.", ""),
    ],
)
def test_what_dries_up(source, target, unanswered):
    assert dried_up(source, target, unanswered)


@pytest.mark.parametrize(
    ("source", "target", "unanswered"),
    [
        ("He will be waiting for her.", "Il l'attendra.", "waiting for her."),
        ("Hello. How are you?", "Bonjour, comment allez-vous ?", ""),
        ("I am tired. I want to sleep.", "Je suis fatigué et je veux dormir.", ""),
        ("Let me see. Well... yes!", "Voyons, oui.", ""),
        ("Mr. Smith went to St. Louis.", "M Smith est allé à Saint-Louis.", ""),
        ("She was born at six a.m. on July 17.", "Elle est née à six heures le 17 juillet.", ""),
        (TWO, "รถไฟออกเวลาเจ็ดโมง พี่ชายของฉันอาศัยอยู่ที่นั่นกับภรรยาของเขา", ""),
        (TWO, "기차는 일곱 시에 떠나고 형은 그곳에서 아내와 산다.", "with his wife."),
        ("", "", ""),
    ],
)
def test_a_short_translation_does_not(source, target, unanswered):
    assert not dried_up(source, target, unanswered)


def test_three_full_stops_are_one_end():
    counted = Sentences()
    for word in ("Well", ".", ".", ".", "yes", "!", "?", "or"):
        counted.add(word)
    assert (counted.ended, counted.is_open, len(counted)) == (2, True, 3)


def test_a_model_that_ends_its_turn_at_every_read_is_told():
    finished = translate(MANY, "Le train part.")
    assert finished.reason == "drought"
    assert finished.source_finished
    assert exit_code(finished) == EXIT_INCOMPLETE
    assert "dried up: 48 source words were read and 3 target words written" in remark(finished)


def test_the_whole_translation_is_complete():
    finished = translate(TWO, "Le train part à sept heures. Mon frère y vit avec sa femme.")
    assert (finished.reason, exit_code(finished), remark(finished)) == ("end_of_turn", 0, None)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_words": 4}, "max_words"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_target_source_ratio": 0.1}, "max_target_source_ratio"),
    ],
)
def test_each_cut_says_so_and_whether_source_was_left(limits, reason):
    finished = translate(TWO, TWO, **limits)
    assert finished.reason == reason
    assert exit_code(finished) == EXIT_INCOMPLETE
    said = remark(finished)
    assert f"cut off by a limit, {reason}" in said
    assert ("left unread" in said) == (not finished.source_finished)
    assert asdict(finished)["source_finished"] == (reason == "max_target_source_ratio")


def test_every_reason_has_its_words():
    for reason in ("early_end_of_turn", "stop_limit", "empty_source", "drought"):
        finished = Finished(reason, (), "", (), 7, source_finished=reason != "early_end_of_turn")
        assert remark(finished)
        assert exit_code(finished) == (0 if reason == "empty_source" else EXIT_INCOMPLETE)
    assert exit_code(None) == EXIT_INCOMPLETE


def test_nothing_read_is_nothing_lost():
    assert not Balance(Sentences(), Sentences()).has_dried_up(Fraction(0), Fraction(0))
