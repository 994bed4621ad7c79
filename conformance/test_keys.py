"""Loading: complete checkpoints load, and incomplete or wrong ones are refused.

A file that must load like another one is compared with the implementation's own answer for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt2ref import PUBLISHED_CONFIGS, GPT2Config

from .adapters.adapter import Adapter
from .adapters.own_answers import own_answer
from .adapters.refusal import accepted, may_refuse
from .checkpoints.tensors import (
    Tensors,
    random_token_ids,
    shapes,
    trained_like,
    write_checkpoint,
    write_sparse_checkpoint,
)
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, expected
from .outcomes import Failure, NotApplicable, check
from .requirements import requirement

TINY = GPT2Config(n_positions=13, n_embd=24, n_layer=2, n_head=3)
TOKEN_IDS = random_token_ids(TINY, batch=2, time=7)


def tensors() -> Tensors:
    return trained_like(TINY, seed=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("plain"), TINY, tensors())


@pytest.fixture
def check_loads_as(adapter: Adapter, tmp_path: Path) -> Callable[[Tensors, Path], None]:
    """Check that a checkpoint gives the logits that the implementation gives for another one."""

    def check_logits_of(variant: Tensors, like: Path) -> None:
        right = expected(str(like), TOKEN_IDS, adapter.precision, adapter.device)
        truth, allowed = own_answer(adapter.load(like), TOKEN_IDS, right)
        folder = write_checkpoint(tmp_path / "variant", TINY, variant)
        with accepted("the variant"):
            logits = adapter.load(folder).logits(TOKEN_IDS)
        check_logits(logits, truth, allowed, "the variant")

    return check_logits_of


@pytest.fixture
def check_refused(adapter: Adapter, plain: Path, tmp_path: Path) -> Callable[[Tensors, str], None]:
    """Check that these tensors are refused, at the first use at the latest; intact ones load."""

    def check_refusal(variant: Tensors, what: str) -> None:
        adapter.load(plain).logits(TOKEN_IDS)
        folder = write_checkpoint(tmp_path / "variant", TINY, variant)
        with may_refuse() as refusal:
            adapter.load(folder).logits(TOKEN_IDS)
        check(bool(refusal), f"loaded without an error: {what}")

    return check_refusal


@requirement("keys.published-sizes")
@pytest.mark.parametrize("size", PUBLISHED_CONFIGS)
def test_published_sizes(adapter: Adapter, size: str, tmp_path: Path) -> None:
    if "state_dict" in adapter.lacks:  # then it need not load on the device "meta" either
        raise NotApplicable("the adapter has no state_dict()")
    config = PUBLISHED_CONFIGS[size]
    folder = write_sparse_checkpoint(tmp_path, config)
    check_shapes(adapter.load(folder, device="meta").state_dict(), config)


def check_shapes(state_dict: Mapping[str, Tensor], config: GPT2Config) -> None:
    """Check names, with or without `transformer.`, and shapes."""
    found = {name.removeprefix("transformer."): t.shape for name, t in state_dict.items()}
    expected = shapes(config)
    if missing := expected.keys() - found.keys():
        raise Failure(f"no tensor of the name {', '.join(sorted(missing))}")
    if others := found.keys() - expected.keys():
        raise Failure(f"tensors that GPT-2 does not have: {', '.join(sorted(others))}")
    for key, shape in found.items():
        if shape != expected[key]:
            raise Failure(f"{key} of shape {list(shape)}", expected=f"{list(expected[key])}")


@requirement("keys.round-trip")
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_round_trip(adapter: Adapter, prefix: str, tmp_path: Path) -> None:
    given = {prefix + key: tensor for key, tensor in tensors().items()}
    found = adapter.load(write_checkpoint(tmp_path, TINY, given), dtype=torch.float32).state_dict()
    check_shapes(found, TINY)
    found = {key.removeprefix("transformer."): tensor for key, tensor in found.items()}
    different = [
        key for key, tensor in tensors().items() if not torch.equal(found[key].cpu(), tensor)
    ]
    check(not different, f"other numbers than were loaded, in {', '.join(different)}")


@requirement("keys.prefix")
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_prefix(check_loads_as: Callable[..., None], plain: Path, prefix: str) -> None:
    check_loads_as({prefix + key: tensor for key, tensor in tensors().items()}, like=plain)


@requirement("keys.mask-buffers")
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_mask_buffers(check_loads_as: Callable[..., None], plain: Path, prefix: str) -> None:
    triangle = torch.ones(TINY.n_positions, TINY.n_positions, dtype=torch.uint8).tril()[None, None]
    buffers = {}
    for layer in range(TINY.n_layer):
        buffers[f"h.{layer}.attn.bias"] = triangle.clone()
        buffers[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    check_loads_as(
        {prefix + key: tensor for key, tensor in (tensors() | buffers).items()}, like=plain
    )


@requirement("keys.tied-head")
@pytest.mark.parametrize("with_head", [False, True])
def test_tied_head(check_loads_as: Callable[..., None], plain: Path, with_head: bool) -> None:
    variant = {"transformer." + key: tensor for key, tensor in tensors().items()}
    if with_head:
        variant["lm_head.weight"] = variant["transformer.wte.weight"].clone()
    check_loads_as(variant, like=plain)


@requirement("keys.differing-head")
def test_differing_head(adapter: Adapter, plain: Path, tmp_path: Path) -> None:
    right = expected(str(plain), TOKEN_IDS, adapter.precision, adapter.device)
    truth, allowed = own_answer(adapter.load(plain), TOKEN_IDS, right)
    variant = {"transformer." + key: tensor for key, tensor in tensors().items()}
    # The logits of this head are those of the tied one, flipped.
    variant["lm_head.weight"] = variant["transformer.wte.weight"].flip(0)
    with may_refuse() as refusal:
        logits = adapter.load(write_checkpoint(tmp_path, TINY, variant)).logits(TOKEN_IDS)
    if refusal or (logits - truth.flip(-1)).abs().max() <= allowed:
        return
    what = "an lm_head.weight that differs from wte.weight changed more than the head"
    check_logits(logits, truth, allowed, what)


@requirement("keys.half-file")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_file(
    check_loads_as: Callable[..., None], dtype: torch.dtype, write: WriteCheckpoint
) -> None:
    half = {key: tensor.to(dtype) for key, tensor in tensors().items()}
    whole = {key: tensor.float() for key, tensor in half.items()}
    check_loads_as(half, like=write(f"from {dtype}", TINY, lambda: whole))


@requirement("keys.missing")
@pytest.mark.parametrize(
    "key",
    ["wte.weight", "h.1.mlp.c_fc.weight", "h.0.attn.c_attn.bias", "h.1.ln_2.bias", "ln_f.weight"],
)
def test_missing(check_refused: Callable[..., None], key: str) -> None:
    check_refused(
        {name: tensor for name, tensor in tensors().items() if name != key}, f"{key} missing"
    )


@requirement("keys.unexpected")
@pytest.mark.parametrize("key", ["h.2.ln_1.weight", "h.0.attn.c_attn.extra", "model.wte.weight"])
def test_unexpected(check_refused: Callable[..., None], key: str) -> None:
    check_refused(
        tensors() | {key: torch.ones(TINY.n_embd)}, f"{key}, which no GPT-2 of this config has"
    )


WRONG_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "h.0.attn.c_proj.weight": lambda tensor: tensor[:1],
    "h.1.attn.c_attn.bias": lambda tensor: tensor[:1],
    "h.1.mlp.c_fc.weight": lambda tensor: tensor.t(),
    "ln_f.weight": lambda tensor: tensor[None],
    "wpe.weight": lambda tensor: tensor[:1],
}


@requirement("keys.wrong-shape")
@pytest.mark.parametrize("key", WRONG_SHAPES)
def test_wrong_shape(check_refused: Callable[..., None], key: str) -> None:
    tensor = tensors()[key]
    wrong = WRONG_SHAPES[key](tensor)
    check_refused(
        tensors() | {key: wrong}, f"{key} of shape {list(wrong.shape)}, not {list(tensor.shape)}"
    )
