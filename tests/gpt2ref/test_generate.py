"""`sample`: token ids in, new token ids out."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from conformance.judging import textbook
from gpt2ref import EOS, load_checkpoint, sample
from gpt2ref.fast.captured_step import CapturedDecodeSteps
from gpt2ref.fast.cpu_steps import CPUDecodeSteps
from gpt2ref.generation import draw_uniform, make_steps, prefill

PROMPTS = [[1, 2, 3], [5], [], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], list(range(20, 40))]


def by_the_book(model, token_ids, **options):
    return textbook.generate(model, token_ids, n_positions=model.config.n_positions, **options)


def forward_passes(model):
    """Return a copy of the model, and a list to which each forward pass adds its input's shape."""
    model, passes = copy.deepcopy(model), []
    model.transformer.register_forward_pre_hook(
        lambda _, inputs: passes.append(list(inputs[0].shape))
    )
    return model, passes


@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
@pytest.mark.parametrize("temperature", [0, 0.2, 1.0, 3])
def test_tokens_are_those_of_the_textbooks_loop_also_past_the_context(tiny, temperature, top_k):
    for seed, prompt in enumerate(
        [[1, 2, 3], list(range(12)), list(range(13)), list(range(20, 40))]
    ):
        options: dict[str, Any] = {
            "max_new_tokens": 20,
            "temperature": temperature,
            "top_k": top_k,
            "seed": seed,
            "eos_token_id": 2,
        }
        assert sample(tiny, [prompt], **options) == [by_the_book(tiny, prompt, **options)]


@pytest.mark.parametrize("seed", range(8))
def test_tokens_are_those_of_the_textbooks_loop_in_float32(tiny_folder, seed):
    model = load_checkpoint(tiny_folder)
    options: dict[str, Any] = {"max_new_tokens": 16, "seed": seed, "eos_token_id": None}
    assert sample(model, [[5, 4, 3]], **options) == [by_the_book(model, [5, 4, 3], **options)]


def test_tokens_are_those_of_the_textbooks_loop_with_gpt2s_vocabulary(model):
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.9, "top_k": 200, "seed": 3}
    assert sample(model, [[15496, 995]], **options) == [by_the_book(model, [15496, 995], **options)]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("eos_token_id", [None, *range(0, 97, 12)])
def test_a_row_gets_the_tokens_that_it_gets_alone(tiny, temperature, eos_token_id):
    prompts = [prompt or [0] for prompt in PROMPTS]
    options: dict[str, Any] = {
        "max_new_tokens": 18,
        "temperature": temperature,
        "eos_token_id": eos_token_id,
    }
    together = sample(tiny, prompts, seed=100, **options)
    for row, prompt in enumerate(prompts):
        assert together[row] == sample(tiny, [prompt], seed=100 + row, **options)[0]
        assert together[row] == by_the_book(tiny, prompt, seed=100 + row, **options)


def test_rows_that_end_early_past_the_context_do_not_change_the_others(tiny):
    """Rows of every length end at every step. What they leave in the cache reaches no other row."""
    prompts = [
        list(range(start, start + length))
        for start, length in enumerate([1, 4, 9, 12, 13, 14, 25, 2])
    ]
    ended = 0
    for eos_token_id in range(97):
        options: dict[str, Any] = {
            "max_new_tokens": 12,
            "temperature": 2.0,
            "top_k": 30,
            "eos_token_id": eos_token_id,
        }
        together = sample(tiny, prompts, seed=eos_token_id, **options)
        lengths = {len(row) for row in together}
        if len(lengths) < 3:
            continue
        ended += 1
        alone = [
            sample(tiny, [prompt], seed=eos_token_id + row, **options)[0]
            for row, prompt in enumerate(prompts)
        ]
        assert together == alone
    assert ended >= 5


def test_one_pass_reads_the_prompts_and_each_later_pass_one_token_per_row(tiny):
    model, passes = forward_passes(tiny)
    sample(model, [[1, 2, 3], [4]], max_new_tokens=5, seed=0, eos_token_id=None)
    assert passes == [[2, 3]] + 4 * [[2, 1]]


def test_rows_of_different_lengths_are_read_in_one_pass(tiny):
    rows = [[1, 2, 3, 4], [5], [6, 7]]
    cache = tiny.make_cache(3, 5)
    logits = prefill(tiny, rows, cache)
    assert cache.lengths == [4, 1, 2]
    after = tiny(torch.tensor([[8], [9], [10]]), cache)[:, -1]
    for row, next_id in enumerate([8, 9, 10]):
        assert_close(logits[row], tiny(torch.tensor([rows[row]]))[0, -1], rtol=0, atol=1e-12)
        assert_close(
            after[row], tiny(torch.tensor([[*rows[row], next_id]]))[0, -1], rtol=0, atol=1e-12
        )


def test_the_cache_is_used_until_every_position_is_taken(tiny):
    model, passes = forward_passes(tiny)
    sample(model, [[1] * 10], max_new_tokens=6, seed=0, eos_token_id=None)
    assert passes == [[1, 10], [1, 1], [1, 1], [1, 1], [1, 13], [1, 13]]


def test_no_pass_follows_the_end_of_the_last_row(scripted):
    model, passes = forward_passes(load_checkpoint(scripted([11, 12, EOS, 13, 14, 15])))
    assert sample(model, [[7], [7, 7, 7, 7]], max_new_tokens=2, temperature=0) == [
        [11, 12],
        [13, 14],
    ]
    assert len(passes) == 2
    passes.clear()
    assert sample(model, [[7], [7, 7]], max_new_tokens=50, temperature=0) == [[11, 12], [12]]
    assert len(passes) == 3


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", CPUDecodeSteps), ("cuda", CapturedDecodeSteps)]
)
def test_the_device_decides_which_kind_of_step_is_used(tiny, monkeypatch, device, kind):
    monkeypatch.setattr(type(tiny), "device", torch.device(device))
    assert type(make_steps(tiny, [0], 1, 0.0, None)) is kind


def test_uniform_numbers_are_those_of_each_rows_generator():
    numbers = draw_uniform([random.Random(3), random.Random(4)], 5)
    assert numbers.tolist() == [
        [generator.random() for _ in range(5)] for generator in (random.Random(3), random.Random(4))
    ]


# Mistakes that a loop like the book's invites.


def test_trap_probabilities_without_top_k(tiny):
    assert len(sample(tiny, [[1]], max_new_tokens=3, top_k=None, seed=0, eos_token_id=None)[0]) == 3


def test_trap_one_next_token_for_each_row_of_a_batch(tiny):
    assert [
        len(row)
        for row in sample(tiny, [[1], [2], [3]], max_new_tokens=3, seed=0, eos_token_id=None)
    ] == [3, 3, 3]


def test_trap_temperature_zero_does_not_divide(tiny):
    greedy = tiny(torch.tensor([[1, 2, 3]]))[0, -1].argmax().item()
    assert sample(tiny, [[1, 2, 3]], max_new_tokens=1, temperature=0, eos_token_id=None) == [
        [greedy]
    ]


def test_trap_the_logits_are_not_changed(tiny):
    model, logits = copy.deepcopy(tiny), torch.linspace(-1, 1, 97)
    # Each step returns the same memory.
    model.head = lambda hidden: logits.expand(*hidden.shape[:-1], 97)
    sample(model, [[1], [2]], max_new_tokens=4, temperature=0.5, top_k=3, seed=0)
    assert torch.equal(logits, torch.linspace(-1, 1, 97))


def test_trap_eos_is_not_part_of_the_text(scripted):
    model = load_checkpoint(scripted([11, 12, EOS]))
    assert sample(model, [[7]], max_new_tokens=50, seed=0) == [[11, 12]]


def test_each_row_stops_at_its_own_eos(scripted):
    model = load_checkpoint(scripted([11, 12, EOS, 13, 14, 15, EOS, 16, 17, 18]))
    rows = [[7], [7, 7, 7, 7], [7, 7, 7], [7] * 8, []]
    assert sample(model, rows, max_new_tokens=3, seed=0) == [
        [11, 12],
        [13, 14, 15],
        [],
        [16, 17, 18],
        [11, 12],
    ]


def test_eos_in_the_prompt_stops_nothing(scripted):
    model = load_checkpoint(scripted([11, 12, 13, 14, 15]))
    assert sample(model, [[EOS, 7, EOS]], max_new_tokens=2, seed=0) == [[13, 14]]


def test_without_eos_every_token_is_generated(scripted):
    model = load_checkpoint(scripted([11, EOS, 12, 13]))
    assert sample(model, [[7]], max_new_tokens=4, seed=0, eos_token_id=None) == [[11, EOS, 12, 13]]
    assert sample(model, [[7]], max_new_tokens=4, seed=0, eos_token_id=12) == [[11, EOS]]


def test_zero_new_tokens_take_no_forward_pass(tiny):
    model, passes = forward_passes(tiny)
    assert sample(model, [[1, 2], [3]], max_new_tokens=0) == [[], []]
    assert passes == []


def test_an_empty_row_starts_from_eos(model):
    options: dict[str, Any] = {"max_new_tokens": 8, "seed": 5}
    assert sample(model, [[]], **options) == sample(model, [[EOS]], **options)
    assert len(sample(model, [[]], **options)[0]) == 8


def test_no_rows_give_no_rows(tiny):
    assert sample(tiny, [], max_new_tokens=5) == []
    assert sample(tiny, torch.zeros(0, 3, dtype=torch.int64), max_new_tokens=5) == []


def test_the_callers_ids_are_not_appended_to(tiny):
    rows = [[1, 2, 3], [], [4]]
    tensor = torch.tensor([[1, 2], [3, 4]])
    sample(tiny, rows[::2], max_new_tokens=3, seed=0)
    sample(tiny, tensor, max_new_tokens=3, seed=0)
    assert rows == [[1, 2, 3], [], [4]]
    assert tensor.tolist() == [[1, 2], [3, 4]]


def test_rows_may_be_a_tensor_or_tuples(tiny):
    expected = sample(tiny, [[1, 2], [3, 4]], max_new_tokens=6, seed=0, eos_token_id=None)
    for rows in (
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.int32),
        ((1, 2), (3, 4)),
    ):
        assert sample(tiny, rows, max_new_tokens=6, seed=0, eos_token_id=None) == expected


def test_the_global_random_state_is_neither_changed_nor_read(tiny):
    def states():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            [str(part) for part in np.random.get_state()],
        )

    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        np.random.seed(global_seed)
        before = states()
        results.append(sample(tiny, [[1], [2]], max_new_tokens=10, seed=7, eos_token_id=None))
        sample(tiny, [[1]], max_new_tokens=2)
        assert states() == before
    assert results[0] == results[1]


def test_without_a_seed_calls_and_rows_differ(tiny):
    options: dict[str, Any] = {"max_new_tokens": 40, "temperature": 5.0, "eos_token_id": None}
    first, second = sample(tiny, [[1], [1]], **options)
    assert first != second
    torch.manual_seed(0)
    random.seed(0)
    third = sample(tiny, [[1]], **options)[0]
    torch.manual_seed(0)
    random.seed(0)
    assert third != sample(tiny, [[1]], **options)[0]


def test_a_model_in_training_stays_so_and_no_graph_is_built(tiny):
    model, outputs = copy.deepcopy(tiny).train().requires_grad_(True), []
    model.transformer.register_forward_hook(lambda _, __, output: outputs.append(output))
    sample(model, [[1, 2]], max_new_tokens=3, seed=0, eos_token_id=None)
    assert model.training
    assert all(
        parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
    )
    assert [output.requires_grad for output in outputs] == [False] * 3
    assert model(torch.tensor([[1, 2]])).requires_grad  # the mode ends with the call


def test_two_threads_get_the_tokens_that_each_gets_alone(tiny):
    def run(seed):
        return sample(tiny, [[seed], [2]], max_new_tokens=30, seed=seed, eos_token_id=None)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(run, range(6))) == [run(seed) for seed in range(6)]
