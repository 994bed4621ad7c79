"""gpt2ref.linear is F.linear, whatever computes it."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from gpt2ref.fast import products as module
from gpt2ref.fast.products import Linear, linear, packed

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_product(actual, x, weight, bias=None, *, inputs_rounded_to=None):
    """Within the bound of rounding: each of the products and sums once in float32 or better, the result once to its dtype.

    If the inputs were rounded beforehand, both factors of each product are off by half an epsilon of that dtype.
    """
    x, weight = x.double(), weight.double()
    truth, size = (
        F.linear(x, weight),
        F.linear(x.abs(), weight.abs()),
    )  # what is added up, and its magnitudes
    if bias is not None:
        truth, size = truth + bias.double(), size + bias.double().abs()
    eps = torch.finfo(actual.dtype).eps
    inner = min(eps, torch.finfo(torch.float32).eps)
    relative = (x.size(-1) + 1) * inner / 2 + (
        torch.finfo(inputs_rounded_to).eps if inputs_rounded_to else 0
    )
    # 1% more, for the products of two of these.
    allowed = 1.01 * (relative * size + eps / 2 * truth.abs())
    worst = ((actual.double() - truth).abs() / allowed).max().item()
    assert worst <= 1, f"{worst} of the allowed error"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 1, 48), (2, 3, 48), (300, 48)])
@pytest.mark.parametrize("stored", ["out, in", "in, out"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("mkl", [True, False])
def test_it_is_the_product_in_either_storage_order(monkeypatch, dtype, shape, stored, biased, mkl):
    monkeypatch.setattr(module, "_MKL", mkl)
    x, bias = normal(*shape, dtype=dtype), normal(33, dtype=dtype, seed=2) if biased else None
    weight = (
        normal(33, 48, dtype=dtype, seed=1)
        if stored == "out, in"
        else normal(48, 33, dtype=dtype, seed=1).t()
    )
    assert_product(linear(x, weight, bias), x, weight, bias)


def test_a_transposed_input_and_a_part_of_one():
    weight = normal(33, 48, seed=1)
    for x in (normal(48, 5).t(), normal(5, 96)[:, ::2]):
        assert_product(linear(x, weight), x, weight)


def test_the_bound_tells_a_wrong_product():
    x, weight, bias = (
        normal(5, 48, dtype=torch.bfloat16),
        normal(33, 48, dtype=torch.bfloat16, seed=1),
        normal(33, seed=2),
    )
    product = linear(x, weight, bias.bfloat16())
    for wrong in (product - bias, product + bias, linear(x, weight.flip(0)), product * 1.01):
        with pytest.raises(AssertionError, match="of the allowed error"):
            assert_product(wrong.bfloat16(), x, weight, bias.bfloat16())


def test_gradients_are_those_of_nn_linear():
    ours, theirs = Linear(48, 33), torch.nn.Linear(48, 33)
    theirs.load_state_dict(ours.state_dict())
    x = normal(5, 48).requires_grad_()
    gradients = [
        torch.autograd.grad(layer(x).square().sum(), [x, layer.weight, layer.bias])
        for layer in (ours, theirs)
    ]
    assert_close(*gradients)
    assert_close(
        torch.autograd.grad(linear(x, ours.weight.detach()).sum(), [x])[0],
        ours.weight.sum(0).expand(5, -1),
    )


def test_it_compiles_and_takes_part_in_autocast():
    layer = Linear(48, 33).requires_grad_(False)
    x = normal(5, 48)
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        product = layer(x)
    assert product.dtype == torch.bfloat16
    assert_product(product, x, layer.weight, layer.bias, inputs_rounded_to=torch.bfloat16)


needs_bfloat16 = pytest.mark.skipif(
    not module._BFLOAT16, reason="oneDNN has no bfloat16 on this CPU"
)


@needs_bfloat16
@pytest.mark.parametrize(
    "change",
    [
        lambda layer, new: layer.weight.copy_(new),
        lambda layer, new: layer.load_state_dict({"weight": new}),
        lambda layer, new: layer.load_state_dict({"weight": new}, assign=True),
        lambda layer, new: setattr(layer.weight, "data", new),
    ],
    ids=["in place", "load_state_dict", "assigned", "data"],
)
def test_a_weight_that_changes_is_packed_anew(change):
    layer = Linear(48, 33, bias=False).bfloat16().requires_grad_(False)
    x, new = normal(1, 48, dtype=torch.bfloat16), normal(33, 48, dtype=torch.bfloat16, seed=5)
    before = layer(x)
    assert packed(layer.weight) is packed(layer.weight)
    change(layer, new)
    assert_product(layer(x), x, new)
    assert not torch.equal(layer(x), before)


@needs_bfloat16
def test_the_packed_copy_goes_with_the_weight():
    weight = normal(33, 48, dtype=torch.bfloat16)
    before = len(module._packed)
    packed(weight)
    assert len(module._packed) == before + 1
    del weight
    gc.collect()
    assert len(module._packed) == before


@needs_bfloat16
def test_weights_made_in_inference_mode_are_used_as_they_are():
    with torch.inference_mode():
        weight = normal(33, 48, dtype=torch.bfloat16)
    x = normal(2, 48, dtype=torch.bfloat16)
    assert_product(linear(x, weight), x, weight)
