import math
import pickle
import sys

import pytest

from selfinstruct.common.codec import canonical
from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters.perplexity import Ifd, Perplexity, ifd, perplexity


def unigrams(pairs):
    """A language model of three words; a word is twice as likely if it occurs in the context."""
    odds = {"the": 0.5, "cat": 0.25, "xylem": 0.001}
    return [
        [math.log(odds[word] * (2 if word in context.split() else 1)) for word in text.split()]
        for context, text in pairs
    ]


def test_perplexity_is_the_inverse_geometric_mean_of_the_probabilities():
    assert perplexity([math.log(0.5)]) == pytest.approx(2)
    assert perplexity([math.log(0.5), math.log(0.125)]) == pytest.approx(4)
    assert perplexity([0.0] * 5) == 1
    assert math.isnan(perplexity([]))
    assert perplexity([-math.inf]) == perplexity([-1e4]) == math.inf


def test_ifd_is_the_ratio_of_two_perplexities():
    conditioned, direct = [-1.0, -0.5, -0.25], [-2.0, -1.0, -0.5]
    assert ifd(conditioned, direct) == pytest.approx(perplexity(conditioned) / perplexity(direct))
    assert ifd(direct, direct) == 1
    assert ifd([-0.1], [-0.2]) < 1 < ifd([-0.2], [-0.1])
    assert math.isnan(ifd([], []))
    assert ifd([-1e4], [-1.0]) == math.inf
    with pytest.raises(UsageError, match="2 tokens after the instruction but 1 alone"):
        ifd([-1.0, -1.0], [-1.0])


def test_texts_are_kept_between_two_bounds():
    bounded = Perplexity(unigrams, min=3.0, max=10.0)
    verdicts = bounded.decide(["the", "cat", "xylem", "the cat", ""])
    assert [verdict.reason for verdict in verdicts] == ["repetitive", "", "perplexity", "repetitive", ""]
    assert [verdict.score for verdict in verdicts] == pytest.approx([2, 4, 1000, math.sqrt(8), None])
    assert bounded.verdict("cat") == verdicts[1]
    assert verdicts[0].filter == "perplexity"


def test_rows_are_kept_whose_instruction_helps():
    difficulty = Ifd(unigrams, min=0.6)
    verdicts = difficulty.decide(["say cat", "say something", "cat", ""], ["the cat", "the cat", "cat", ""])
    assert [verdict.reason for verdict in verdicts] == ["", "", "easy", ""]
    assert [verdict.score for verdict in verdicts] == pytest.approx([math.sqrt(0.5), 1.0, 0.5, None])
    assert difficulty(["say cat", "cat"], ["the cat", "cat"]) == [True, False]
    assert Ifd(unigrams, max=0.9).decide(["say"], ["the cat"])[0].reason == "unhelpful"
    with pytest.raises(UsageError, match="1 instructions but 2 answers"):
        difficulty.decide(["a"], ["the", "the"])


def test_an_infinite_perplexity_is_rejected_and_can_still_be_written():
    (verdict,) = Perplexity(lambda pairs: [[-1e6] for _ in pairs], max=1e300).decide(["a"])
    assert (verdict.kept, verdict.reason, verdict.score) == (False, "perplexity", None)
    assert canonical(verdict.detail) == b'{"infinite":true}'


@pytest.mark.parametrize("bounds", [{"max": -1.0}, {"min": 2.0, "max": 1.0}, {"min": -1.0, "max": 1.0}])
def test_bounds_are_checked(bounds):
    with pytest.raises(UsageError, match="not valid bounds"):
        Perplexity("model", **bounds)
    with pytest.raises(UsageError, match="not valid bounds"):
        Ifd("model", **bounds)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for member, arguments in ((Perplexity("m", max=10.0), (["a"],)), (Ifd("m"), (["a"], ["b"]))):
        with pytest.raises(MissingExtraError, match=r"torch or transformers is not installed.*\[train\]"):
            member.decide(*arguments)


def test_both_filters_can_be_pickled():
    for member in (Perplexity("m", max=10.0), Ifd(unigrams)):
        assert pickle.loads(pickle.dumps(member)) == member
