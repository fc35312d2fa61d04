"""The choice of tokens, and where a completion ends."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.backends.transformers.sampling import InvalidLogitsError, choose
from selfinstruct.backends.transformers.text import Sequence
from selfinstruct.records import Choice, Sampling
from tests import finetune_fixtures

tiny_tokenizer = finetune_fixtures.tiny_tokenizer


def sequence(
    index: int = 0, tokenizer: Any = None, prompt: str = "", stop_ids: set[int] = frozenset(), **sampling: Any
):
    values = {"max_tokens": 10_000, "temperature": 1.0, "seed": 7, **sampling}
    ids = tokenizer(prompt).input_ids if tokenizer else []
    return Sequence(ids, Sampling(**values), index, tokenizer, frozenset(stop_ids))


def draws(probabilities: list[float], count: int = 4000, **sampling: Any) -> list[float]:
    """Return how often each token is drawn from these probabilities."""
    drawn = sequence(**sampling)
    logits = torch.tensor([probabilities]).log()
    counts = Counter(choose(logits.clone(), [drawn])[0] for _ in range(count))
    return [counts[token] / count for token in range(len(probabilities))]


def test_tokens_are_drawn_by_their_probability() -> None:
    shares = draws([0.5, 0.3, 0.15, 0.05])
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_temperature_sharpens() -> None:
    squared = [0.25, 0.09, 0.0225, 0.0025]
    shares = draws([0.5, 0.3, 0.15, 0.05], temperature=0.5)
    assert shares == pytest.approx([value / sum(squared) for value in squared], abs=0.03)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    shares = draws([0.05, 0.5, 0.15, 0.3], top_p=0.75)
    assert shares == pytest.approx([0, 0.625, 0, 0.375], abs=0.03)
    assert draws([0.05, 0.5, 0.15, 0.3], top_p=0.5) == [0, 1, 0, 0]
    assert draws([0.25] * 4, count=50, top_p=0.01) != [1, 0, 0, 0], "equally likely tokens are all kept"


def test_top_p_of_a_flat_distribution_counts_all_tokens() -> None:
    size = 5000
    weights = [1.0 + token / size for token in range(size)]
    total = sum(weights)
    shares = draws([weight / total for weight in weights], count=2000, top_p=0.5)
    kept = [token for token, share in enumerate(shares) if share]
    reached, first = 0.0, size
    while reached < 0.5 * total:
        first -= 1
        reached += weights[first]
    assert min(kept) >= first
    assert min(kept) < first + 50


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 300)
    kinds = [{"temperature": 0.0}, {}, {"top_p": 0.4}, {"temperature": 1.7, "seed": 9}, {"frequency_penalty": 1.0}]

    def sequences() -> list[Sequence]:
        return [sequence(**kind) for kind in kinds]

    together = choose(logits.clone(), sequences())
    assert together == [choose(logits[row : row + 1].clone(), [one])[0] for row, one in enumerate(sequences())]
    assert together[0] == int(logits[0].argmax())


def test_choices_of_a_request_draw_differently_and_repeatably() -> None:
    first, again, other = ([sequence(index).random() for _ in range(1)] for index in (0, 0, 1))
    assert first == again != other
    unseeded = {sequence(seed=None).random() for _ in range(4)}
    assert len(unseeded) == 4


def test_penalties_count_the_tokens_of_the_completion() -> None:
    penalised = sequence(temperature=0.0, frequency_penalty=0.4, presence_penalty=0.5)
    chosen = []
    for _ in range(6):
        (token,) = choose(torch.tensor([[2.0, 1.25, 0.0]]), [penalised])
        penalised.add(token)
        chosen.append(token)
    # Token 0: 2.0, then 1.1, 0.7, 0.3; token 1: 1.25, then 0.35, -0.05; token 2: 0.0.
    assert chosen == [0, 1, 0, 0, 1, 0]


def test_a_logit_that_is_not_a_number_is_reported() -> None:
    with pytest.raises(InvalidLogitsError):
        choose(torch.tensor([[0.0, math.nan]]), [sequence()])
    assert choose(torch.tensor([[0.0, -math.inf]]), [sequence()]) == [0]


def write(text: str, tokenizer: Any, **options: Any) -> tuple[Choice, int]:
    """Add the tokens of a text until the sequence ends; return its choice and the number of tokens that were used."""
    written = sequence(tokenizer=tokenizer, **options)
    for token in tokenizer(text).input_ids:
        written.add(token)
        if written.finish_reason:
            break
    return written.choice(), len(written.tokens)


def test_a_stop_string_ends_the_text_before_it(tiny_tokenizer: Any) -> None:
    text = " four\n5. five\n6. six"
    choice, used = write(text, tiny_tokenizer, stop=("\n7.", "\n6."))
    assert choice == Choice(" four\n5. five", "stop")
    assert used == len(tiny_tokenizer(" four\n5. five\n6.").input_ids)


def test_the_earliest_of_several_stop_strings_counts(tiny_tokenizer: Any) -> None:
    assert write("abc", tiny_tokenizer, stop=("c", "bc"))[0] == Choice("a", "stop")


def test_a_stop_token_is_counted_but_not_written(tiny_tokenizer: Any) -> None:
    choice, used = write("yes<|im_end|>no", tiny_tokenizer, stop_ids={2})
    assert choice == Choice("yes", "stop")
    assert used == len(tiny_tokenizer("yes").input_ids) + 1


def test_a_limit_ends_the_text_even_within_a_character(tiny_tokenizer: Any) -> None:
    choice, used = write("ab日", tiny_tokenizer, max_tokens=3)
    assert (choice.finish_reason, used) == ("length", 3)
    assert choice.text.startswith("ab")


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=3))
def test_stop_strings_are_searched_in_any_text(text: str, stop: str) -> None:
    tokenizer = TOKENIZER
    choice, _ = write(text, tokenizer, prompt="Say:", stop=(stop,))
    before, found, _ = text.partition(stop)
    assert choice.text == before
    assert (choice.finish_reason == "stop") == bool(found)


TOKENIZER = finetune_fixtures.make_tokenizer()
