"""The CPU's sampler for single rows chooses the tokens that `sampling.choose` chooses."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2ref.fast.cpu_steps import _largest, choose_by_row
from gpt2ref.sampling import choose

INF, NAN = math.inf, math.nan

# Few different values, so that ties are common; any values; and logits that choose no token.
numbers = st.integers(-3, 3).map(float) | st.floats(-60, 60, width=32)
rows = st.integers(1, 40).flatmap(
    lambda vocab: st.lists(
        st.lists(
            numbers | st.sampled_from([-INF, INF, NAN]) | numbers, min_size=vocab, max_size=vocab
        ),
        min_size=1,
        max_size=4,
    )
)


@given(
    rows,
    st.sampled_from([0, 1e-300, 0.3, 1.0, 10.0]),
    st.none() | st.integers(1, 45),
    st.integers(0, 2**32),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_the_tokens_are_those_of_the_plain_sampler(rows, temperature, top_k, seed, dtype):
    logits = torch.tensor(rows, dtype=torch.float64).to(dtype)
    before = logits.clone()
    generator = random.Random(seed)
    uniform = torch.tensor([generator.random() for _ in rows], dtype=torch.float64)
    options = {"temperature": temperature, "top_k": top_k}
    assert torch.equal(
        choose_by_row(logits, uniform, **options), choose(logits, uniform, **options)
    )
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("top_k", [None, 1, 40, 3000])
@pytest.mark.parametrize("temperature", [0, 0.7, 3])
def test_the_tokens_are_those_of_the_plain_sampler_in_gpt2s_vocabulary(temperature, top_k):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, 50257, generator=generator)
    uniform = torch.rand(20, dtype=torch.float64, generator=generator)
    options = {"temperature": temperature, "top_k": top_k}
    assert torch.equal(
        choose_by_row(logits, uniform, **options), choose(logits, uniform, **options)
    )


@given(st.data(), st.integers(1, 200), st.sampled_from([1, 3, 30, 1000]), st.integers(0, 9))
def test_the_k_largest_and_their_ties_are_found_among_many(data, size, different, seed):
    k = data.draw(st.integers(1, size))
    logits = torch.randint(
        different, (size,), generator=torch.Generator().manual_seed(seed)
    ).float()
    logits[data.draw(st.integers(0, size - 1))] = data.draw(st.sampled_from([-INF, -1.0, 2000.0]))
    kth = logits.sort(descending=True).values[k - 1]
    assert _largest(logits, k).tolist() == [place for place in range(size) if logits[place] >= kth]
