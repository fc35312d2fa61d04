import pytest

from selfinstruct.filters import Copied, rouge_l

SENTENCE = "The quick brown fox jumps over the lazy dog"
POEM = "Waves fold over the grey stones of the shore"


@pytest.mark.parametrize(
    ("output", "given", "shown", "reason"),
    [
        (SENTENCE, SENTENCE + ".", [], "copied_input"),
        (SENTENCE, "", [POEM, SENTENCE], "copied_demonstration"),
        (SENTENCE, "", [], ""),
        (SENTENCE, "Translate the fox", [POEM], ""),
        ("a b c", "a b c", ["a b c"], ""),  # three words: may well be a label
        ("a b c d", "a b c d", [], "copied_input"),
        ("写一首关于春天的诗", "写一首关于秋天的诗", [], "copied_input"),
        ("!!! ??? --- ...", "!!! ??? --- ...", [], ""),
        ("", "", [""], ""),
    ],
)
def test_copies_are_recognised(output, given, shown, reason):
    verdict = Copied().decide(output, given, shown)
    assert (verdict.filter, verdict.kept, verdict.reason) == ("copied", not reason, reason)


def test_the_score_is_the_f1_and_the_nearest_demonstration_is_named():
    near, nearer = SENTENCE.replace("fox jumps", "cat leaps"), SENTENCE.replace("quick", "slow")
    verdict = Copied().decide(SENTENCE, "", [POEM, near, nearer, nearer])
    assert verdict.detail == {"shown": 2}
    assert verdict.score == rouge_l(SENTENCE, nearer)


def test_an_f1_equal_to_the_threshold_is_kept():
    given = SENTENCE.replace("quick", "slow")
    score = rouge_l(SENTENCE, given)
    assert Copied(score).decide(SENTENCE, given).kept
    assert not Copied(score - 1e-9).decide(SENTENCE, given).kept


def test_the_same_words_in_another_order_are_kept():
    assert Copied().decide(" ".join(reversed(SENTENCE.split())), SENTENCE).kept


def test_a_megabyte_is_decided_in_linear_time():
    assert Copied().decide("a" * 10**6 + "!", "b" * 10**6).kept
    assert not Copied().decide("a " * 500_000, "a " * 500_000 + "!").kept
