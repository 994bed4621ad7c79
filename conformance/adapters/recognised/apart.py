"""Recognises parameters that keep the heads apart, or that no module's type explains.

Separate heads are a list with a module for each, or a dimension of size n_head in front, as in
TransformerLens' W_Q [head, in, out].
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from gpt2ref import GPT2Config

_INTO = re.compile(r"in|fc|up|expand|1$", re.IGNORECASE)
_OUT_OF = re.compile(r"out|proj|down|2$", re.IGNORECASE)


def heads_marked(
    model: nn.Module, path: list[str], parts: list[str], start: int, n_head: int
) -> list[str]:
    """Put `*` in place of the number of a head: one of n_head modules of a type, in a list."""
    for i in range(start, len(parts) - 1):
        if parts[i].isdigit():
            modules = model.get_submodule(".".join(path[:i]))
            is_list = isinstance(modules, nn.ModuleList) and len(modules) == n_head
            if is_list and len({type(each) for each in modules.children()}) == 1:
                return [*parts[:i], "*", *parts[i + 1 :]]
    return parts


def is_vector(parameter: Tensor, shape: GPT2Config) -> bool:
    """Return whether a parameter is a bias, or one with a dimension for the heads."""
    by_head = (shape.n_head, shape.n_embd // shape.n_head)
    return parameter.dim() == 1 or tuple(parameter.shape) == by_head


def of_heads(
    name: str,
    size: tuple[int, ...],
    shape: GPT2Config,
    transposed: bool | None,
    *,
    to_heads: bool,
) -> bool | None:
    """Return whether the matrices of the heads are stored [out, in]; None if this is none of them.

    `to_heads`: it goes from the model to the heads, as q, k and v do.
    """
    width, head = shape.n_embd, shape.n_embd // shape.n_head
    if "*" in name and transposed is not None:
        expected = (width, head) if to_heads else (head, width)
        stored = expected[::-1] if transposed else expected
        return transposed if size == stored else None
    if len(size) == 3 and size[0] == shape.n_head and {*size[1:]} == {width, head}:
        return size[1] == (head if to_heads else width)
    return None


def two_of_an_mlp(module: nn.Module, shape: GPT2Config) -> bool | None:
    """Return whether an MLP's two parameters are stored [out, in]; None if their names don't say.

    The one that goes in is that of W_in, and the one that goes out is that of W_out.
    """
    sizes: dict[tuple[int, ...], bool] = {
        (shape.n_embd, shape.mlp_width): False,
        (shape.mlp_width, shape.n_embd): True,
    }
    own = {n: p for n, p in module.named_parameters(recurse=False) if tuple(p.shape) in sizes}
    for first, second in (tuple(own), tuple(own)[::-1]) if len(own) == 2 else ():
        plain = first.replace("weight", ""), second.replace("weight", "")
        if _INTO.search(plain[0]) and _OUT_OF.search(plain[1]):
            one, two = sizes[tuple(own[first].shape)], sizes[tuple(own[second].shape)]
            return one if one != two else None
    return None
