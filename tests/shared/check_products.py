"""`python -m tests.shared.check_products`: compare a model's products with float64.

The environment decides how many threads OpenMP grants, and OpenMP reads it once, so each setting
needs a process of its own. The exit status is 0 if every product is right.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from gpt2ref import GPT2, PUBLISHED_CONFIGS
from tests.shared.blocks import block

N_COMPARED = 400  # outputs of each product, evenly spaced: a float64 copy of all would take seconds


@cache
def numbers(dtype: torch.dtype) -> Tensor:
    """Return [50257 * 1600] random numbers, which all matrices share: the largest has as many."""
    largest = max(config.vocab_size * config.n_embd for config in PUBLISHED_CONFIGS.values())
    return torch.rand(largest, generator=torch.Generator().manual_seed(0)).sub_(0.5).to(dtype)


def layers(size: str, dtype: torch.dtype) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield name, layer and weight [out, in] of each product. The blocks store it as [in, out]."""
    config = replace(PUBLISHED_CONFIGS[size], n_layer=1)
    with torch.device("meta"):
        model = GPT2(config)
    attn, mlp = block(model, 0).attn, block(model, 0).mlp
    for name, layer in [
        ("c_attn", attn.c_attn),
        ("c_proj", attn.c_proj),
        ("c_fc", mlp.c_fc),
        ("mlp.c_proj", mlp.c_proj),
    ]:
        n_out, n_in = layer.weight.shape
        weight = numbers(dtype)[: n_in * n_out].view(n_in, n_out).t()
        layer.load_state_dict({"weight": weight, "bias": numbers(dtype)[:n_out]}, assign=True)
        yield name, layer.requires_grad_(False), weight
    weight = numbers(dtype)[: config.vocab_size * config.n_embd].view(-1, config.n_embd)
    model.transformer.wte.load_state_dict({"weight": weight}, assign=True)
    yield "head", model.requires_grad_(False), weight


@torch.no_grad()
def errors(sizes: list[str], dtype: torch.dtype, rows: list[int]) -> list[str]:
    """Describe each product that is further from float64's than its rounding allows."""
    found = []
    for size in sizes:
        for name, layer, weight in layers(size, dtype):
            for n_rows in rows:
                n_out, n_in = weight.shape
                x = numbers(dtype)[-n_rows * n_in :].view(n_rows, n_in)
                product = layer.head(x) if isinstance(layer, GPT2) else layer(x)
                some = torch.arange(0, n_out, max(1, n_out // N_COMPARED))
                exact, size_of_terms = (
                    part.double() @ other[some].double().t()
                    for part, other in ((x, weight), (x.abs(), weight.abs()))
                )
                if isinstance(layer, nn.Linear):
                    exact += layer.bias[some].double()
                allowed = n_in * torch.finfo(torch.float32).eps * size_of_terms
                allowed += torch.finfo(dtype).eps * (exact.abs() + 1)
                wrong = ((product[:, some].double() - exact).abs() > allowed).any()
                if wrong or not product.isfinite().all():
                    found.append(f"{size} {name}, {n_rows} rows, {dtype}")
    return found


@torch.no_grad()
def errors_of_a_model(n_threads: int) -> list[str]:
    """Say if a model's logits in bfloat16 are wrong after torch was told to use more threads."""
    torch.set_num_threads(n_threads)
    config = replace(PUBLISHED_CONFIGS["gpt2"], n_layer=2)
    model = GPT2(config).bfloat16()
    logits, exact = (
        each(torch.arange(8)[None]).double() for each in (model, deepcopy(model).double())
    )
    # With default weights logits have a standard deviation of 28. Rounding moves them by up to 2.
    return [] if (logits - exact).abs().max() < 8 else [f"a model, {n_threads} threads"]


def errors_in_fork(size: str) -> list[str]:
    torch.set_num_threads(1)  # as torch's DataLoader does: OpenMP's threads don't survive a fork
    return errors([size], torch.float32, [1, 8])


def main() -> int:
    sizes = list(PUBLISHED_CONFIGS)
    found = errors(sizes, torch.float32, [1, 8, 64])
    for dtype in (torch.bfloat16, torch.float16):  # slow without the instructions: fewer products
        found += errors([sizes[0], sizes[-1]], dtype, [1]) + errors(sizes[:1], dtype, [8])
    found += [f"forked: {each}" for each in in_a_forked_worker(sizes[0])]
    found += errors_of_a_model(3)
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        found += [f"set to {n_threads} threads: {each}" for each in in_two_threads(sizes[0])]
    print("\n".join(found))
    return bool(found)


def in_a_forked_worker(size: str) -> list[str]:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply_async(errors_in_fork, [size]).get(timeout=100)


def in_two_threads(size: str) -> list[str]:
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(errors, [size], torch.float32, [1, 8]) for _ in range(2)]
        return [each for job in jobs for each in job.result()]


if __name__ == "__main__":
    sys.exit(main())
