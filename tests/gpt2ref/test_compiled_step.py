"""The decode step in C: its logits, cache and tokens are the model's, up to rounding."""

import copy
import shutil
from typing import Any, get_args

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import gpt2ref
from conformance.checkpoints.tensors import trained_like
from conformance.judging import textbook
from gpt2ref import GPT2Config, from_tensors, sample
from gpt2ref.conversion import Layout
from gpt2ref.fast.compiled_step import CompiledStep
from gpt2ref.generation import prefill
from tests.shared.calls import recorded
from tests.shared.compiled import (
    allowed_errors,
    filled,
    furthest,
    last,
    logits_of,
    step_of,
    stored,
    with_step,
)
from tests.shared.smallest import CONFIG, TENSORS

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


def load_checkpoint(*arguments, **options):
    return with_step(gpt2ref.load_checkpoint(*arguments, **options))


@st.composite
def shapes_and_rows(draw):
    """Draw a shape, rarely a multiple of C's vectors, and rows of any lengths."""
    n_head = draw(st.integers(1, 5))
    config = GPT2Config(
        vocab_size=draw(st.integers(7, 70)),
        n_positions=draw(st.integers(1, 20)),
        n_embd=n_head * draw(st.integers(1, 40)),
        n_layer=draw(st.integers(1, 2)),
        n_head=n_head,
        n_inner=draw(st.integers(1, 200)),
    )
    row = st.lists(st.integers(0, config.vocab_size - 1), min_size=1, max_size=config.n_positions)
    return config, draw(st.lists(row, min_size=1, max_size=9))


LARGE = (
    GPT2Config(vocab_size=997, n_positions=3, n_embd=768, n_layer=1, n_head=12),
    [[996, 0], [5], [1, 2, 3], [7, 7], [9]],
)


MANY = (
    GPT2Config(vocab_size=7, n_positions=2, n_embd=57, n_layer=2, n_head=19, n_inner=55),
    [[row % 7, row % 5] for row in range(33)],
)
# Parts of the matrices are copied for so many rows, in full panels and in narrower ones.
PACKED = (
    GPT2Config(vocab_size=7, n_positions=2, n_embd=200, n_layer=1, n_head=8, n_inner=210),
    [[row % 7, row % 5] for row in range(17)],
)
threads, orders = st.integers(1, 5), st.sampled_from(get_args(Layout))


@given(shapes_and_rows(), threads, orders)
@example(LARGE, 2, "in_out")
@example(LARGE, 3, "out_in")
@example(MANY, 3, "in_out")
@example(MANY, 2, "out_in")
@example(PACKED, 2, "in_out")
def test_logits_and_cache_are_those_of_the_model(case, n_threads, order):
    config, rows = case
    torch.set_num_threads(n_threads)
    tensors = trained_like(config, seed=0)
    model, exact = from_tensors(tensors, config), from_tensors(tensors, config, dtype=torch.float64)
    cache, exact_cache = filled(model, rows), filled(exact, rows)
    found = [step_of(with_step(stored(model, order)), cache)(last(rows)), cache.keys, cache.values]
    truths = [logits_of(exact, rows, exact_cache), exact_cache.keys, exact_cache.values]
    for ours, truth, largest in zip(found, truths, allowed_errors(model, exact), strict=True):
        assert ours.shape == truth.shape
        assert ours.dtype == torch.float32
        assert furthest(ours, truth) <= largest
    assert cache.lengths == exact_cache.lengths
    assert cache.written == exact_cache.written


@given(shapes_and_rows(), threads, orders, st.integers(0, 19))
@example(PACKED, 2, "in_out", 0)
def test_whole_prompts_at_once_or_in_two_pieces(case, n_threads, order, first):
    config, rows = case
    torch.set_num_threads(n_threads)
    tensors = trained_like(config, seed=0)
    model, exact = from_tensors(tensors, config), from_tensors(tensors, config, dtype=torch.float64)
    exact_cache = exact.make_cache(len(rows), max(map(len, rows)))
    truths = [prefill(exact, rows, exact_cache), exact_cache.keys, exact_cache.values]
    cache = model.make_cache(len(rows), exact_cache.capacity)
    cache.keys.fill_(torch.nan)  # forgotten tokens
    cache.written = [cache.capacity] * len(rows)
    step = step_of(with_step(stored(model, order)), cache)
    pieces = [(row[:first], row[first:]) for row in rows]
    if all(begin and end for begin, end in pieces):
        step.feed([begin for begin, _ in pieces])
        logits = step.feed([end for _, end in pieces])
    else:
        logits = step.feed(rows)
    found = [logits, cache.keys, cache.values]
    for ours, truth, largest in zip(found, truths, allowed_errors(model, exact), strict=True):
        assert furthest(ours, truth) <= largest
    assert cache.lengths == exact_cache.lengths
    assert cache.written == exact_cache.written


@given(shapes_and_rows(), threads, orders, st.sampled_from([torch.bfloat16, torch.float16]))
@example(LARGE, 2, "in_out", torch.bfloat16)
@example(LARGE, 3, "out_in", torch.float16)
@example(MANY, 2, "out_in", torch.bfloat16)
@example(MANY, 3, "in_out", torch.float16)
@example(PACKED, 2, "in_out", torch.bfloat16)
def test_in_low_precision_errors_are_no_larger_than_torchs(case, n_threads, order, dtype):
    config, rows = case
    torch.set_num_threads(n_threads)
    tensors = {key: tensor.to(dtype) for key, tensor in trained_like(config, seed=0).items()}
    model, exact = from_tensors(tensors, config), from_tensors(tensors, config, dtype=torch.float64)
    cache, exact_cache = filled(model, rows), filled(exact, rows)
    step = step_of(with_step(stored(model, order)), cache)
    logits, truth = step(last(rows)), logits_of(exact, rows, exact_cache)
    assert logits.dtype == torch.float32
    assert furthest(logits, truth) <= allowed_errors(model, exact)[0]
    # The first block's keys have the same inputs in both, so only their own rounding differs.
    for row, position in enumerate(len(each) - 1 for each in rows):
        ours, truth = cache.keys[0, row, position].double(), exact_cache.keys[0, row, position]
        assert (
            (ours - truth).abs() <= torch.finfo(dtype).eps / 2 * truth.abs() * 1.01 + 1e-5
        ).all()


@pytest.mark.parametrize(
    "prompts", [[[1, 2, 3]], [[1], [4, 5, 6, 7], [], [8, 9]]], ids=["one row", "ragged"]
)
@pytest.mark.parametrize(("temperature", "top_k"), [(0, None), (1.0, None), (0.7, 5)])
def test_tokens_are_those_of_the_textbooks_loop(
    tiny_folder, monkeypatch, prompts, temperature, top_k
):
    """The text grows past the context, where the compiled step is not used."""
    model = load_checkpoint(tiny_folder)
    steps: list[tuple[Any, ...]] = []
    monkeypatch.setattr(CompiledStep, "__call__", recorded(CompiledStep.__call__, steps))
    prompts = [prompt or [0] for prompt in prompts]
    options: dict[str, Any] = {
        "max_new_tokens": 15,
        "temperature": temperature,
        "top_k": top_k,
        "eos_token_id": 7,
    }
    new = sample(model, prompts, seed=3, **options)
    n_positions = model.config.n_positions
    assert new == [
        textbook.generate(model, prompt, n_positions=n_positions, seed=3 + row, **options)
        for row, prompt in enumerate(prompts)
    ]
    assert len(steps) == n_positions - max(map(len, prompts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tokens_of_the_model_that_comes_with_the_package(dtype):
    model = load_checkpoint("tiny", dtype=dtype)
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 0.8, "top_k": 40, "seed": 0}
    in_c = sample(model, [[7454, 2402, 257, 640]], **options)
    plain = sample(copy.deepcopy(model), [[7454, 2402, 257, 640]], **options)
    # Once one token differs, all later ones do.
    assert in_c == plain if dtype == torch.float32 else in_c[0][:5] == plain[0][:5]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_changes_nothing(tiny_folder, dtype):
    model = load_checkpoint(tiny_folder)
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.0, "eos_token_id": None}
    expected = sample(model, [[1, 2, 3]], **options)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert sample(model, [[1, 2, 3]], **options) == expected
    finally:
        torch.set_default_dtype(before)


def test_weights_changed_between_two_calls_are_used(tiny_folder):
    model = load_checkpoint(tiny_folder)
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.0, "eos_token_id": None}
    before = sample(model, [[1, 2, 3]], **options)
    for parameter in model.parameters():
        parameter.neg_()
    after = sample(model, [[1, 2, 3]], **options)
    assert after != before
    assert after == [
        textbook.generate(model, [1, 2, 3], n_positions=model.config.n_positions, **options)
    ]


def test_nan_and_infinity_reach_the_logits():
    for value in (float("nan"), float("inf")):
        tensors = {**TENSORS, "wte.weight": TENSORS["wte.weight"].clone()}
        tensors["wte.weight"][3, 1] = value
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            model = with_step(from_tensors(tensors, CONFIG, dtype=dtype))
            logits = step_of(model, filled(model, [[1, 2]]))(last([[1, 2]]))
            assert logits.isfinite().tolist() == [[True, True, True, False, True]]
            with pytest.raises(ValueError, match="the largest one is not a finite number"):
                sample(model, [[3]], max_new_tokens=2, temperature=0)


def test_keys_and_values_are_rounded_half_to_even():
    """Each key and value is the product of two bfloat16 numbers, which is exact in float32."""
    gain = [1 + n / 128 for n in range(4)]
    tensors = {**TENSORS, "h.0.ln_1.weight": torch.zeros(4), "h.0.ln_1.bias": torch.tensor(gain)}
    tensors["h.0.attn.c_attn.bias"] = torch.zeros(12)
    tensors["h.0.attn.c_attn.weight"] = torch.cat(
        [torch.zeros(4, 4), 1.5 * torch.eye(4), -1.5 * torch.eye(4)], dim=1
    )
    model = with_step(from_tensors(tensors, CONFIG, dtype=torch.bfloat16))
    cache = filled(model, [[1, 2]])
    step_of(model, cache)(last([[1, 2]]))
    expected = (1.5 * torch.tensor(gain)).bfloat16()
    assert cache.keys[0, 0, 1].flatten().tolist() == expected.tolist()
    assert cache.values[0, 0, 1].flatten().tolist() == (-expected).tolist()


def test_large_attention_scores_do_not_overflow():
    """The exponential of these scores would overflow."""
    tensors = {
        key: 40 * tensor if "c_attn.weight" in key else tensor for key, tensor in TENSORS.items()
    }
    model, rows = with_step(from_tensors(tensors, CONFIG)), [[1, 2, 3]]
    expected = logits_of(model, rows)
    torch.testing.assert_close(step_of(model, filled(model, rows))(last(rows)), expected)


def test_nan_is_written_to_the_cache():
    tensors = {**TENSORS, "h.0.attn.c_attn.bias": torch.full((12,), float("nan"))}
    model = with_step(from_tensors(tensors, CONFIG, dtype=torch.bfloat16))
    cache = filled(model, [[1, 2]])
    step_of(model, cache)(last([[1, 2]]))
    assert cache.keys[0, 0, 1].isnan().all()
    assert cache.values[0, 0, 1].isnan().all()
