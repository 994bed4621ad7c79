"""Which models and calls the compiled step takes, what it refuses, and what it leaves behind."""

import copy
import math
import shutil
from typing import Any

import pytest
import torch

from gpt2ref import GPT2, from_tensors, sample
from gpt2ref.fast import compiled_step as compiled
from gpt2ref.fast.compiled_step import compiled_step
from tests.shared.blocks import block
from tests.shared.compiled import step_of, with_step
from tests.shared.smallest import CONFIG, TENSORS

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


def test_matrices_stored_in_different_orders_are_left_to_torch():
    """The step would have to copy some of them."""
    model = with_step(from_tensors(TENSORS, CONFIG))
    fc = block(model, 0).mlp.c_fc
    fc.weight.data = fc.weight.data.contiguous()
    assert compiled_step(model, model.make_cache(1)) is None


def test_a_model_made_directly_is_compiled():
    """A new nn.Linear stores its matrix [out, in]."""
    model = with_step(GPT2(CONFIG).requires_grad_(False))
    assert compiled_step(model, model.make_cache(1))


def test_another_dtype_is_left_to_torch():
    model = with_step(from_tensors(TENSORS, CONFIG, dtype=torch.float64))
    assert compiled_step(model, model.make_cache(1)) is None
    assert sample(model, [[1]], max_new_tokens=2, seed=0)


@pytest.mark.parametrize(("seconds", "way"), [(0.79, "torch"), (0.81, "c"), (3.0, "c")])
def test_more_than_eight_tokens_are_fed_by_the_faster_one(monkeypatch, seconds, way):
    monkeypatch.setattr(compiled, "_choices", {})
    asked: list[int] = []

    def timed(_self: object, rows: int, _order: str) -> dict[str, float]:
        asked.append(rows)
        return {"c": 1.0, "torch": seconds}

    monkeypatch.setattr(compiled.CompiledStep, "_seconds", timed)
    model = with_step(from_tensors(TENSORS, CONFIG))
    step = step_of(model, model.make_cache(1))
    found = {n: step.is_faster(n) for n in (1, 8, 9, 16, 17, 64, 65, 1000)}
    in_c = way == "c"
    assert found == {
        1: True,
        8: True,
        9: in_c,
        16: in_c,
        17: in_c,
        64: in_c,
        65: False,
        1000: False,
    }
    assert asked == [16, 32, 64]
    assert [choice.way for choice in compiled.choices().values()] == [way] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_are_timed(monkeypatch, dtype):
    monkeypatch.setattr(compiled, "_choices", {})
    model = with_step(from_tensors(TENSORS, CONFIG, dtype=dtype))
    cache = model.make_cache(1)
    step = step_of(model, cache)
    step.is_faster(9)
    (choice,) = compiled.choices().values()
    assert all(map(math.isfinite, choice.seconds.values()))
    assert step([1]).isfinite().all()
    assert cache.lengths == [1]


@pytest.mark.parametrize("faster", [True, False])
def test_tokens_do_not_depend_on_who_feeds_them(monkeypatch, faster):
    prompts = [[1, 2], [3], [4, 0]] * 3
    options: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": None}
    expected = sample(from_tensors(TENSORS, CONFIG), prompts, seed=0, **options)
    monkeypatch.setattr(compiled.CompiledStep, "is_faster", lambda *_: faster)
    model = with_step(from_tensors(TENSORS, CONFIG))
    assert sample(model, prompts, seed=0, **options) == expected


def test_mixed_dtypes_and_devices_are_left_to_torch():
    model = with_step(from_tensors(TENSORS, CONFIG))
    model.transformer.ln_f.bias.data = model.transformer.ln_f.bias.data.double()
    assert compiled_step(model, model.make_cache(1)) is None
    cache = from_tensors(TENSORS, CONFIG, dtype=torch.float64).make_cache(1)
    assert compiled_step(with_step(from_tensors(TENSORS, CONFIG)), cache) is None
    meta = with_step(from_tensors(TENSORS, CONFIG)).to("meta")
    assert compiled_step(meta, model.make_cache(1)) is None


@pytest.mark.parametrize(
    "layer",
    [torch.nn.Linear(4, 17), torch.nn.Sequential(torch.nn.Linear(4, 16))],
    ids=["shape", "names"],
)
def test_a_model_with_other_modules_is_left_to_torch(layer):
    model = with_step(from_tensors(TENSORS, CONFIG))
    block(model, 0).mlp.c_fc = layer.requires_grad_(False)
    assert compiled_step(model, model.make_cache(1)) is None


@pytest.mark.parametrize(
    ("token_ids", "lengths", "message"),
    [
        ([5], [1], r"token_ids: \[5\], expected 0 to 4 for each of 1 rows"),
        ([-1], [1], r"token_ids: \[-1\]"),
        ([1, 2], [1], r"token_ids: \[1, 2\], .* each of 1 rows"),
        ([1], [3], r"cache.lengths: \[3\], expected 0 to 2 for each of 1 rows"),
        ([1], [-1], r"cache.lengths: \[-1\]"),
        ([1], [1, 1], r"cache.lengths: \[1, 1\], .* each of 1 rows"),
        ([1], [], r"cache.lengths: \[\]"),
    ],
)
def test_ids_and_lengths_out_of_range_are_refused(token_ids, lengths, message):
    model = with_step(from_tensors(TENSORS, CONFIG))
    cache = model.make_cache(1)
    step = step_of(model, cache)
    cache.lengths = lengths
    with pytest.raises(ValueError, match=message):
        step(token_ids)
    assert cache.lengths == lengths


def test_other_models_are_not_affected():
    model, other = with_step(from_tensors(TENSORS, CONFIG)), from_tensors(TENSORS, CONFIG)
    for each in (other, copy.deepcopy(model)):
        assert compiled_step(each, each.make_cache(1)) is None
    assert compiled_step(model, model.make_cache(1))


def test_what_is_kept_of_a_model_is_freed_with_it():
    model = with_step(from_tensors(TENSORS, CONFIG))
    assert model in compiled._models
    before = len(compiled._models)
    del model
    assert len(compiled._models) == before - 1


def test_a_model_that_changes_its_dtype_stays_compiled():
    model = with_step(from_tensors(TENSORS, CONFIG)).bfloat16()
    assert compiled_step(model, model.make_cache(1))
