"""Finds the place of each of GPT-2's tensors in a model, whatever its parameters are called.

A model of a shape whose sizes all differ tells by its own sizes what most parameters are: the
matrix from n_embd to 3 * n_embd is `c_attn`, the one from 4 * n_embd is the MLP's `c_proj`. Names
decide where sizes can't: between q, k, v and the projection, and between the two LayerNorms.
Whether a matrix is [in, out] or [out, in] is known from the type of its module, never from a
square matrix.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gpt2ref import GPT2Config

from .apart import heads_marked, is_vector, of_heads, two_of_an_mlp

PARTS = ("q", "k", "v")
ZERO = "0"  # in place of a tensor, for a bias that GPT-2 does not have
# What a projection to q, k or v is called, less its underscores.
_PART = (
    r"(?:w|b|c|fc|lin|linear|attn|proj|in|to)?(q|k|v|query|key|value|queries|keys|values)"
    r"(?:proj|projection|lin|linear|layer|w|s)?"
)
_LACKED = re.compile(r"h\.#\..*\.bias|ln_f\..*")  # tensors that a wrong GPT-2 may do without
_BIAS = re.compile(r"(\w*_)?(bias|shift|beta|b|offset)")
_SECOND = re.compile(r"mlp|ff|feed|post|2$")
_FIRST = re.compile(r"att|input|pre|1$")


@dataclass(frozen=True)
class Origin:
    """The tensor of GPT-2's file that a parameter's numbers come from, and what is done with it.

    `part` is q, k or v where the parameter is a third of `c_attn`. `heads`: the parameter has a
    dimension for the heads, or is that of one head.
    """

    tensor: str
    part: str = ""
    transposed: bool = False
    heads: bool = False


@dataclass
class Fit:
    """The parameters of a model with their origins, and what does not fit.

    Names have `#` for the layer, and `*` for the head.
    """

    origins: dict[str, Origin] = field(default_factory=dict)
    homeless: dict[str, str] = field(default_factory=dict)  # a parameter: why it has no origin
    missing: list[str] = field(default_factory=list)  # tensors of GPT-2 without a parameter

    def __bool__(self) -> bool:
        """Return whether this is a GPT-2, be it one that lacks biases or its last LayerNorm."""
        return not self.homeless and all(map(_LACKED.fullmatch, self.missing))

    @property
    def whole(self) -> bool:
        """Return whether every tensor of GPT-2 has a place."""
        return not self.homeless and not self.missing


@dataclass(frozen=True)
class _Matrix:
    """A matrix that maps `size[0]` numbers to `size[1]`; `transposed` if it is stored [out, in].

    `heads`: it is stored with a dimension for the heads, or as a matrix of each head.
    """

    name: str
    size: tuple[int, int]
    transposed: bool
    heads: bool = False


def fit(model: nn.Module, shape: GPT2Config) -> Fit:
    """Find out where each of GPT-2's tensors goes in a model that has this shape."""
    found = Fit()
    modules = _by_pattern(model, shape, found)
    oriented = {
        type(module): _orientation(type(module), modules, shape) for module in modules.values()
    }
    matrices: dict[str, list[_Matrix]] = defaultdict(list)  # module -> its matrices
    for prefix, module in modules.items():
        for name, parameter in _own(module).items():
            if parameter.dim() >= 2 and not is_vector(parameter, shape):
                matrix = _matrix(
                    prefix + name, module, parameter, oriented[type(module)], shape, found
                )
                if matrix:
                    matrices[prefix].append(matrix)
    _place_matrices(matrices, shape, found)
    _place_vectors(modules, matrices, shape, found)
    _place_norms(modules, shape, found)
    _find_missing(found)
    return found


def fit_without(model: nn.Module, shape: GPT2Config, unused: list[str]) -> Fit:
    """Fit a model without these parameters, which are taken out of it, and fill them with zeros."""
    for name in unused:
        path, _, own = name.rpartition(".")
        model.get_submodule(path).register_parameter(own, None)
    found = fit(model, shape)
    for name in unused:
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts[:-2]) if part.isdigit()), None)
        if number is not None:
            parts[number] = "#"
        found.origins[".".join(parts)] = Origin(ZERO)
    return found


def _own(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _by_pattern(model: nn.Module, shape: GPT2Config, found: Fit) -> dict[str, nn.Module]:
    """Return the modules that have parameters, by their prefix with # for the layer."""
    modules: dict[str, nn.Module] = {}
    layers: dict[str, set[int]] = defaultdict(set)
    for path, module in model.named_modules(remove_duplicate=False):
        if _own(module):
            parts = path.split(".") if path else []
            number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
            layer = 0
            if number is not None and len(parts) > number + 1:
                layer, parts[number] = int(parts[number]), "#"
                parts = heads_marked(model, path.split("."), parts, number + 1, shape.n_head)
            prefix = "".join(f"{part}." for part in parts)
            modules.setdefault(prefix, module)
            layers[prefix].add(layer)
    for prefix, numbers in layers.items():
        first = min(numbers)  # not 0 where the embeddings stand in one list with the layers
        if "#" in prefix and numbers != set(range(first, first + shape.n_layer)):
            found.homeless[prefix.rstrip(".")] = (
                f"is in the layers {sorted(numbers)}, expected {shape.n_layer} layers in a row"
            )
    return {
        prefix: module
        for prefix, module in modules.items()
        if prefix.rstrip(".") not in found.homeless
    }


def _orientation(
    kind: type[nn.Module], modules: dict[str, nn.Module], shape: GPT2Config
) -> bool | None:
    """Return whether modules of a type store their matrix as [out, in]; None if nothing says so.

    A type with one matrix of its own does the same with each: one that is not square tells of all.
    """
    if issubclass(kind, (nn.Linear, nn.MultiheadAttention)):
        return True
    if "conv1d" in kind.__name__.lower():  # transformers' and its like: [in, out]
        return False
    width = shape.n_embd
    for module in modules.values():
        own = [p.shape for p in _own(module).values() if p.dim() == 2]
        if type(module) is kind and len(own) == 1 and {*own[0]} == {width, 3 * width}:
            return own[0][0] == 3 * width
    return None


def _matrix(
    name: str,
    module: nn.Module,
    parameter: Tensor,
    transposed: bool | None,
    shape: GPT2Config,
    found: Fit,
) -> _Matrix | None:
    size = tuple(parameter.shape)
    while len(size) > 2 and size[0] == 1:  # such as positions [1, time, n_embd]
        size = size[1:]
    rows = {shape.vocab_size: "wte.weight", shape.n_positions: "wpe.weight"}
    if len(size) == 2 and size[0] in rows and size[1] == shape.n_embd and "#" not in name:
        # A head is stored [out, in], as wte is.
        found.origins[name] = Origin(rows[size[0]])
        return None
    three = {shape.n_embd, 3 * shape.n_embd}
    by_head = of_heads(name, size, shape, transposed, to_heads=bool(_part(name)))
    if by_head is not None:
        return _Matrix(name, (shape.n_embd, shape.n_embd), by_head, heads=True)
    if size == (shape.n_embd, shape.vocab_size) and transposed is None:
        found.origins[name] = Origin("wte.weight", transposed=True)
        return None
    if transposed is None:
        transposed = two_of_an_mlp(module, shape)
    if len(size) != 2:
        found.homeless[name] = f"has the shape {list(size)}, and GPT-2's tensors are of one or two"
    elif transposed is not None:
        return _Matrix(name, size[::-1] if transposed else size, transposed)
    elif {*size} == three:
        return _Matrix(
            name, (size[0], size[1]) if size[0] < size[1] else size[::-1], size[0] > size[1]
        )
    else:
        found.homeless[name] = (
            f"is {list(size)} in a {type(module).__name__}, which does not say whether it is "
            "[in, out] or [out, in]"
        )
    return None


def _place_matrices(matrices: dict[str, list[_Matrix]], shape: GPT2Config, found: Fit) -> None:
    width, inner = shape.n_embd, shape.mlp_width
    of_sizes = {
        (width, 3 * width): "h.#.attn.c_attn.weight",
        (width, inner): "h.#.mlp.c_fc.weight",
        (inner, width): "h.#.mlp.c_proj.weight",
        (width, shape.vocab_size): "wte.weight",
    }
    square = []
    for matrix in (matrix for own in matrices.values() for matrix in own):
        tensor = of_sizes.get(matrix.size)
        if matrix.size == (width, width):
            square.append(matrix)
        elif tensor is None or ("#" in tensor) != ("#" in matrix.name):
            found.homeless[matrix.name] = f"goes from {matrix.size[0]} to {matrix.size[1]}"
        else:
            head = tensor == "wte.weight"  # [out, in] in the file
            found.origins[matrix.name] = Origin(tensor, transposed=matrix.transposed != head)
    parts = {matrix.name: _part(matrix.name) for matrix in square}
    others = [matrix.name for matrix in square if not parts[matrix.name]]
    for matrix in square:
        if part := parts[matrix.name]:
            found.origins[matrix.name] = Origin(
                "h.#.attn.c_attn.weight", part, matrix.transposed, matrix.heads
            )
        elif len(others) == 1:
            found.origins[matrix.name] = Origin(
                "h.#.attn.c_proj.weight", transposed=matrix.transposed, heads=matrix.heads
            )
        else:
            found.homeless[matrix.name] = (
                "may be q, k, v or the projection of the attention: its name does not say which"
            )


def _part(name: str) -> str:
    """Return q, k or v for a projection that is named after it."""
    for word in reversed(name.split(".")):
        if match := re.fullmatch(
            _PART, word.lower().replace("_", "").removesuffix("weight") or "-"
        ):
            return match[1][0]
    return ""


def _place_vectors(
    modules: dict[str, nn.Module],
    matrices: dict[str, list[_Matrix]],
    shape: GPT2Config,
    found: Fit,
) -> None:
    """Place the bias beside the matrix of its module. The head's is zero, since GPT-2 has none."""
    for prefix, module in modules.items():
        for name, vector in _own(module).items():
            whole, own = prefix + name, matrices.get(prefix, [])
            if vector.shape == (shape.vocab_size,) and "#" not in prefix:
                found.origins[whole] = Origin(ZERO)
            if whole in found.origins or not own or not is_vector(vector, shape):
                continue
            beside = [each for each in own if _bias_of(each.name) == _bias_of(whole)]
            beside = beside or (own if len(own) == 1 else [])
            origin = found.origins.get(beside[0].name) if beside else None
            length = vector.numel() * (shape.n_head if "*" in prefix else 1)
            if origin and length == beside[0].size[1]:
                tensor = origin.tensor.removesuffix("weight") + "bias"
                heads = (origin.heads and length != vector.numel()) or vector.dim() == 2
                found.origins[whole] = Origin(tensor, origin.part, heads=heads)
            else:
                found.homeless[whole] = f"of shape {list(vector.shape)} has no like in GPT-2"


def _bias_of(name: str) -> str:
    """Return what the names of a matrix and of its bias have in common."""
    name = re.sub(r"(^|\.)(weight|bias|[wWbB])(_|$|(?=[0-9A-Z]))", r"\1", name)
    return re.sub(r"_?(weight|bias)$", "", name)


def _place_norms(modules: dict[str, nn.Module], shape: GPT2Config, found: Fit) -> None:
    norms: dict[bool, list[str]] = {True: [], False: []}  # in a block, and outside
    for prefix, module in modules.items():
        own = _own(module)
        if all(tuple(p.shape) == (shape.n_embd,) for p in own.values()):
            norms["#" in prefix].append(prefix)
        else:
            for name, parameter in own.items():
                if prefix + name not in {**found.origins, **found.homeless}:
                    shown = list(parameter.shape)
                    found.homeless[prefix + name] = f"of shape {shown} has no like in GPT-2"
    named = dict.fromkeys(norms[False], "ln_f") if len(norms[False]) == 1 else {}
    named |= _two_norms(norms[True])
    for prefix in norms[True] + norms[False]:
        for name in _own(modules[prefix]):
            kind = "bias" if _BIAS.fullmatch(name) else "weight"
            if prefix in named:
                found.origins[prefix + name] = Origin(f"{named[prefix]}.{kind}")
            else:
                found.homeless[prefix + name] = "may be any LayerNorm: its name does not say which"


def _two_norms(prefixes: list[str]) -> dict[str, str]:
    """Tell the LayerNorm before the attention from the one before the MLP, by their names."""
    if len(prefixes) != 2:
        return {}
    names = [prefix.partition("#.")[2].rstrip(".").lower() for prefix in prefixes]
    for first, second in ((0, 1), (1, 0)):
        one, two = names[first], names[second]
        told = bool(_SECOND.search(two)) or bool(_FIRST.search(one))
        if told and not _SECOND.search(one):
            return {prefixes[first]: "h.#.ln_1", prefixes[second]: "h.#.ln_2"}
    return {}


def _find_missing(found: Fit) -> None:
    have: dict[str, Any] = defaultdict(set)
    for origin in found.origins.values():
        have[origin.tensor].add(origin.part)
    for tensor in NAMES:
        parts = have[tensor]
        if not parts & {""} and parts != {*PARTS}:
            found.missing.append(tensor)


NAMES = [
    "wte.weight",
    "wpe.weight",
    *(
        f"h.#.{module}.{kind}"
        for module in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    ),
    "ln_f.weight",
    "ln_f.bias",
]
