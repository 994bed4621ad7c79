"""Which models and calls the compiled step takes, what it refuses, and what it leaves behind."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch

from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2, compile_step, from_tensors, sample
from gpt2ref.fast import compiled_step as compiled
from gpt2ref.fast.compiled_step import compiled_step
from tests.shared.blocks import block
from tests.shared.compiled import step_of, with_step
from tests.shared.smallest import CONFIG, TENSORS

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


def test_weights_stored_out_in_are_left_to_torch():
    """The step would have to copy them. A new nn.Linear and nanoGPT store matrices so."""
    model = with_step(GPT2(CONFIG).requires_grad_(False))
    assert compiled_step(model, model.make_cache(1)) is None


@pytest.mark.parametrize(
    ("dtype", "config", "batch"),
    [
        (torch.float64, {}, 1),
        (torch.float16, {}, 1),
        (torch.float32, {}, 33),
        (torch.bfloat16, {}, 9),
        (torch.bfloat16, {"n_embd": 5, "n_head": 5}, 1),
        (torch.bfloat16, {"n_inner": 7}, 1),
    ],
    ids=str,
)
def test_other_dtypes_shapes_and_batches_are_left_to_torch(dtype, config, batch):
    shape = replace(CONFIG, **config)
    model = with_step(from_tensors(trained_like(shape, 0), shape, dtype=dtype))
    assert compiled_step(model, model.make_cache(batch)) is None
    assert sample(model, [[1]] * batch, max_new_tokens=2, seed=0)


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


@pytest.fixture
def nothing_compiled():
    """Forget what was compiled before, and what this test compiles."""
    compiled._library.cache_clear()
    yield
    compiled._library.cache_clear()


@pytest.mark.usefixtures("nothing_compiled")
def test_the_compilers_message_is_in_the_error(monkeypatch, tmp_path):
    broken = tmp_path / "step.c"
    broken.write_text("int main(void) { return nothing; }")
    monkeypatch.setattr(compiled, "_SOURCE", broken)
    model = from_tensors(TENSORS, CONFIG)
    with pytest.raises(RuntimeError, match=r"(?s)^\S.*step\.c -lm\n.*nothing"):
        compile_step(model)
    assert compiled_step(model, model.make_cache(1)) is None


@pytest.mark.usefixtures("nothing_compiled")
def test_nothing_is_left_on_disk(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compile_step(from_tensors(TENSORS, CONFIG))
    assert list(tmp_path.iterdir()) == []
