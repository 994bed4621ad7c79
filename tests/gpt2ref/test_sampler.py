import math
import random

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from conformance.judging import textbook
from gpt2ref.arguments import check_sampling
from gpt2ref.sampling import draw, next_token, probabilities

INF, NAN = math.inf, math.nan
LAST_BELOW_ONE = math.nextafter(1.0, 0.0)

# Either few different values, so that ties are common, or any values.
scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12) | st.lists(
    st.floats(-60, 60, width=32), min_size=1, max_size=12
)
temperatures = st.sampled_from([0.01, 0.3, 0.7, 1.0, 1.5, 10.0])
top_ks = st.none() | st.integers(1, 14)
seeds = st.integers(0, 2**32)


def row(values, dtype=torch.float64):
    return torch.tensor([values], dtype=dtype)


def at(*uniform):
    return torch.tensor(uniform, dtype=torch.float64)


@given(scores, temperatures, top_ks)
def test_probabilities_are_those_of_the_definition(scores, temperature, top_k):
    weights = torch.tensor(
        textbook.distribution(scores, temperature=temperature, top_k=top_k), dtype=torch.float64
    )
    actual = probabilities(torch.tensor(scores), temperature=temperature, top_k=top_k)
    assert_close(actual, weights / weights.sum(), rtol=1e-11, atol=1e-300)
    assert torch.equal(actual > 0, weights > 0)


@given(scores, temperatures, top_ks, seeds)
def test_the_token_is_the_textbooks_for_the_same_uniform_number(scores, temperature, top_k, seed):
    uniform = random.Random(seed).random()
    expected = textbook.next_token(scores, uniform, temperature=temperature, top_k=top_k)
    assert next_token(row(scores), at(uniform), temperature=temperature, top_k=top_k).tolist() == [
        expected
    ]


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=12),
    st.integers(-1000, 1000),
    temperatures,
    top_ks,
)
def test_adding_a_constant_to_the_logits_changes_nothing(scores, constant, temperature, top_k):
    logits = torch.tensor(scores, dtype=torch.float32)  # integers: the sum is exact
    options = {"temperature": temperature, "top_k": top_k}
    assert torch.equal(
        probabilities(logits + constant, **options), probabilities(logits, **options)
    )


@given(scores, temperatures, top_ks, st.randoms(use_true_random=False))
def test_renaming_the_tokens_renames_the_probabilities(scores, temperature, top_k, shuffler):
    order = list(range(len(scores)))
    shuffler.shuffle(order)
    logits, options = torch.tensor(scores), {"temperature": temperature, "top_k": top_k}
    assert_close(
        probabilities(logits[order], **options),
        probabilities(logits, **options)[order],
        rtol=1e-12,
        atol=0,
    )


@given(scores, st.integers(1, 14), temperatures)
def test_the_tokens_left_by_top_k_are_those_that_fewer_than_k_exceed(scores, top_k, temperature):
    assume(max(scores) - min(scores) < 700 * temperature)  # no probability underflows
    kept = [sum(other > score for other in scores) < top_k for score in scores]
    assert (
        probabilities(torch.tensor(scores), temperature=temperature, top_k=top_k) > 0
    ).tolist() == kept


def test_every_token_tied_with_the_kth_largest_stays_in():
    logits = torch.tensor([2.0, 5.0, 3.0, 3.0, 1.0, 3.0])
    for top_k, kept in [
        (1, [1]),
        (2, [1, 2, 3, 5]),
        (4, [1, 2, 3, 5]),
        (5, [0, 1, 2, 3, 5]),
        (6, [0, 1, 2, 3, 4, 5]),
    ]:
        assert probabilities(logits, top_k=top_k).nonzero().flatten().tolist() == kept
    assert_close(probabilities(logits, top_k=2)[3].item(), 1 / (3 + math.exp(2)))


def test_ties_are_those_of_the_logits_before_the_temperature():
    # The first quotient underflows to zero.
    logits = torch.tensor([-1e-20, 0.0, -1.0], dtype=torch.float64)
    assert probabilities(logits, temperature=1e308, top_k=1).tolist() == [0, 1, 0]


@given(scores, temperatures, seeds)
def test_top_k_of_one_is_greedy_where_the_largest_is_unique(scores, temperature, seed):
    assume(scores.count(max(scores)) == 1)
    uniform = at(random.Random(seed).random())
    token = next_token(row(scores), uniform, temperature=temperature, top_k=1)
    assert torch.equal(token, next_token(row(scores), uniform, temperature=0))


@given(scores, temperatures, st.integers(0, 10**6))
def test_a_top_k_of_the_vocabulary_or_more_is_no_restriction(scores, temperature, more):
    logits = torch.tensor(scores)
    unrestricted = probabilities(logits, temperature=temperature)
    assert torch.equal(
        probabilities(logits, temperature=temperature, top_k=len(scores) + more), unrestricted
    )


@given(scores, temperatures, top_ks, st.sampled_from([0.0, 5e-324, 0.5, LAST_BELOW_ONE]))
def test_a_token_of_probability_zero_is_never_drawn(scores, temperature, top_k, uniform):
    logits = row([-INF, *scores, -INF])
    token = next_token(logits, at(uniform), temperature=temperature, top_k=top_k)
    assert probabilities(logits, temperature=temperature, top_k=top_k)[0, token] > 0


def test_the_ends_of_the_unit_interval_give_the_first_and_the_last_possible_token():
    logits = row([-INF, 0.0, -9.0, 1.0, 0.0, -9.0]).expand(2, -1)
    assert next_token(logits, at(0.0, LAST_BELOW_ONE), top_k=3).tolist() == [1, 4]


def test_a_draw_needs_no_probabilities_that_sum_to_one():
    assert draw(row([0.2, 0.2, 0.0]), at(LAST_BELOW_ONE)).tolist() == [1]
    assert draw(row([3.0, 1.0, 4.0]), at(0.49)).tolist() == [1]
    # The third weight adds nothing to the sum.
    assert draw(row([0.0, 1.0, 1e-17, 0.0]), at(LAST_BELOW_ONE)).tolist() == [1]


def test_a_token_of_probability_zero_is_not_drawn_even_if_rounding_raises_its_sum(monkeypatch):
    """A device that sums in parallel may round so. Here the sums are given."""
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda *_: row([0.25, 0.25 + 2**-54, 1.0]))
    assert draw(row([0.25, 0.0, 0.75]), at(0.25)).tolist() == [0]


@pytest.mark.parametrize("top_k", [None, 3])
def test_over_a_grid_of_uniform_numbers_frequencies_are_probabilities(top_k):
    n, logits = 10_000, torch.tensor([0.3, -1.0, 2.0, 0.3, -INF, -3.0, 1.0])
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = next_token(logits.expand(n, -1), uniform, temperature=0.8, top_k=top_k)
    frequencies = tokens.bincount(minlength=7) / n
    assert_close(
        frequencies.double(),
        probabilities(logits, temperature=0.8, top_k=top_k),
        rtol=0,
        atol=1 / n,
    )


def test_each_row_is_drawn_by_its_own_number_from_its_own_logits():
    logits = torch.tensor([[0.0, 0.0, -INF], [0.0, 0.0, -INF], [-INF, 0.0, 0.0], [-INF, -INF, 7.0]])
    assert next_token(logits, at(0.4, 0.6, 0.4, 0.4)).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_logits_of_any_dtype_are_read_exactly_and_left_as_they_were(dtype, top_k):
    logits = row([0.1, 3.0, -2.0, 3.0, 2.5], dtype)
    before = logits.clone()
    actual = probabilities(logits, temperature=0.7, top_k=top_k)
    token = next_token(logits, at(0.6), temperature=0.7, top_k=top_k)
    assert torch.equal(logits, before)
    assert actual.dtype == torch.float64
    assert torch.equal(actual, probabilities(before.double(), temperature=0.7, top_k=top_k))
    assert torch.equal(token, next_token(before.double(), at(0.6), temperature=0.7, top_k=top_k))
    assert token.dtype == torch.int64


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9])
def test_a_tiny_temperature_is_greedy_and_divides_equal_maxima_evenly(temperature):
    assert probabilities(
        torch.tensor([1.0, 3.0, 3.0, -INF, -60.0]), temperature=temperature
    ).tolist() == [0, 0.5, 0.5, 0, 0]


def test_a_huge_temperature_is_uniform_over_the_tokens_that_are_possible():
    assert probabilities(torch.tensor([1.0, 3.0, -60.0, -INF]), temperature=1e300).tolist() == [
        1 / 3,
        1 / 3,
        1 / 3,
        0,
    ]
    assert probabilities(
        torch.tensor([1.0, 3.0, -60.0, -INF]), temperature=1e300, top_k=2
    ).tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST_BELOW_ONE])
def test_temperature_zero_is_the_first_of_equal_maxima(uniform):
    for zero in (0, 0.0, -0.0):
        assert next_token(
            row([1.0, 4.0, 4.0, 4.0, -INF]), at(uniform), temperature=zero
        ).tolist() == [1]
        assert next_token(
            row([1.0, 4.0, 4.0]), at(uniform), temperature=zero, top_k=2
        ).tolist() == [1]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize(
    "bad", [[NAN, 1.0], [1.0, NAN], [INF, 1.0], [-INF, -INF], [NAN, NAN]], ids=str
)
def test_logits_that_choose_no_token_are_refused_by_row(bad, temperature):
    logits = torch.tensor([[0.0, 1.0], bad, [-INF, 1.0], bad])
    with pytest.raises(ValueError, match=r"^logits: .* in row\(s\) \[1, 3\]"):
        next_token(logits, at(0.5, 0.5, 0.5, 0.5), temperature=temperature)


@pytest.mark.parametrize(
    ("error", "argument", "value"),
    [
        (ValueError, "temperature", -1),
        (ValueError, "temperature", -5e-324),
        (ValueError, "temperature", NAN),
        (ValueError, "temperature", INF),
        (TypeError, "temperature", True),
        (TypeError, "temperature", "1"),
        (TypeError, "temperature", None),
        (ValueError, "top_k", 0),
        (ValueError, "top_k", -1),
        (TypeError, "top_k", 1.5),
        (TypeError, "top_k", 5.0),
        (TypeError, "top_k", True),
        (TypeError, "top_k", "5"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(error, argument, value):
    options = {"temperature": 1.0, "top_k": None, argument: value}
    with pytest.raises(error, match=f"^{argument}={value!r}: expected "):
        check_sampling(**options)
    with pytest.raises(error, match=f"^{argument}={value!r}: expected "):
        next_token(row([1.0, 2.0]), at(0.5), **options)
