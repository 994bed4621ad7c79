"""The emulated device finds the mistakes that a Mac's device finds."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.shared.mps_emulation import MPSTensor, emulated_mps

FLOAT64 = "^Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support"
MIXED = "Expected all tensors to be on the same device, but found at least two devices, mps:0"


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, device="mps")


def attend(values: Tensor, mask: Tensor | None) -> Tensor:
    queries = ones(1, 1, 2, 4)
    return F.scaled_dot_product_attention(queries, queries, values, attn_mask=mask)


MISTAKES = {
    "made": (lambda: torch.zeros(2, dtype=torch.float64, device="mps"), TypeError, FLOAT64),
    "list": (lambda: torch.tensor([1.0], dtype=torch.float64, device="mps"), TypeError, FLOAT64),
    "moved": (lambda: torch.ones(2, dtype=torch.float64).to("mps"), TypeError, FLOAT64),
    "double": (lambda: ones(2).double(), TypeError, FLOAT64),
    "sum": (lambda: ones(2).sum(dtype=torch.float64), TypeError, FLOAT64),
    "on the way": (lambda: ones(2).to("cpu", torch.float64), TypeError, FLOAT64),
    "by name": (lambda: ones(2).to("cpu", dtype=torch.float64), TypeError, FLOAT64),
    "addition": (lambda: ones(2) + torch.ones(2), RuntimeError, MIXED),
    "product": (lambda: torch.ones(2, 2) @ ones(2, 2), RuntimeError, MIXED),
    "embedding": (lambda: F.embedding(torch.tensor([0]), ones(2, 3)), RuntimeError, MIXED),
    "parameter": (lambda: ones(2) * torch.nn.Parameter(torch.ones(2)), RuntimeError, MIXED),
    "gather": (lambda: ones(1, 3).gather(1, torch.tensor([[0]])), RuntimeError, MIXED),
    "select": (lambda: ones(1, 3).index_select(1, torch.tensor([0])), RuntimeError, MIXED),
    "index there": (lambda: torch.ones(3)[torch.tensor([0]).to("mps")], RuntimeError, MIXED),
    "assignment": (lambda: ones(3).__setitem__([0], torch.ones(1)), RuntimeError, MIXED),
    "attention": (lambda: attend(torch.ones(1, 1, 2, 4), None), RuntimeError, MIXED),
    "mask": (
        lambda: attend(ones(1, 1, 2, 4), torch.ones(2, 2, dtype=torch.bool)),
        RuntimeError,
        MIXED,
    ),
    "view": (lambda: F.linear(ones(2, 3), ones(3, 4).t()), RuntimeError, "the weight is a view"),
    "numpy": (lambda: ones(2).numpy(), TypeError, "can't convert mps:0 device type tensor"),
}


@pytest.mark.parametrize("inference", [False, True], ids=["plain", "inference"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_raises(name: str, inference: bool) -> None:
    make, error, message = MISTAKES[name]
    with emulated_mps(), torch.inference_mode(inference), pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("inference", [False, True], ids=["plain", "inference"])
def test_what_a_mac_computes_is_computed(inference: bool) -> None:
    with emulated_mps(), torch.inference_mode(inference):
        x = torch.arange(6.0).view(2, 3).to("mps")
        assert isinstance(x, MPSTensor)
        assert (x.device, x.dtype) == (torch.device("mps", 0), torch.float32)
        assert x.cpu().double().dtype == torch.float64
        assert (x * 2 + 1)[torch.tensor([1])].tolist() == [[7, 9, 11]]  # indices may be the CPU's
        x[:, 0] = torch.tensor(5.0)  # and so may a single number
        x[0].fill_(1)
        assert x.cpu().tolist() == [[1, 1, 1], [5, 4, 5]]
        assert F.linear(x, x, x[:, 0]).device == x.device
        assert torch.ones(2).to(x.device).device == x.device
        assert float(x.sum()) == 17


def test_another_thread_finds_the_same_mistakes() -> None:
    with emulated_mps():
        x = ones(2)
    with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError, match=FLOAT64):
        pool.submit(x.double).result()
