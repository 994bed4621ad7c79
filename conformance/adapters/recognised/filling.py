"""Reads a checkpoint and fills a model with its tensors: the functions of written adapters."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from gpt2ref import PUBLISHED_CONFIGS, GPT2Config

# Fields of config.json beyond the five sizes, and the values that most models have built in.
_USUAL: dict[str, tuple[Any, ...]] = {
    "n_inner": (None,),
    "layer_norm_epsilon": (1e-5,),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
# Some files have these masks. They are no weights, and lm_head.weight is wte.weight.
_LEFT_OUT = (".attn.bias", ".attn.masked_bias", "lm_head.weight")


def read_config(checkpoint: str, follows: Collection[str] = ()) -> transformers.GPT2Config:
    """Read a checkpoint's config.json.

    Raises NotImplementedError for a field that the model does not follow and that has another value
    than usual.
    """
    c = transformers.GPT2Config.from_pretrained(checkpoint)
    for name, usual in _USUAL.items():
        value = getattr(c, name, usual[0])
        is_usual = value in usual or (name == "n_inner" and value == 4 * c.n_embd)
        if name not in follows and not is_usual:
            raise NotImplementedError(f"the model does not follow {name}={value!r} of a config")
    return c


def published_name(checkpoint: str) -> str:
    """Return the name of the published model that has a checkpoint's shape.

    Raises NotImplementedError if none has.
    """
    fields = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    config = GPT2Config.from_dict(fields)
    for name, published in PUBLISHED_CONFIGS.items():
        if config == published:
            return name
    raise NotImplementedError("the model knows the published shapes alone")


def fill(
    model: nn.Module,
    checkpoint: str,
    parameters: Mapping[str, str],
    lacks: Collection[str] = (),
) -> None:
    """Copy a checkpoint's tensors into a model's parameters.

    `parameters`: a parameter's name, and the tensor of GPT-2's file for it; `#` is the layer, and
    `*` the head. After the tensor's name, `q`, `k` or `v` takes a third of its columns, `heads`
    gives the heads a dimension of their own, in front, and `T` transposes it. `0` in place of a
    tensor is zeros. `lacks`: the tensors for which the model has no parameter. Raises ValueError
    for a tensor that is missing, left over, or of another shape.
    """
    fields = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    config = GPT2Config.from_dict(fields)
    stored = load_file(Path(checkpoint) / "model.safetensors")
    file = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    file = {name: tensor for name, tensor in file.items() if not name.endswith(_LEFT_OUT)}
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    targets = dict(model.named_parameters(remove_duplicate=False))
    for pattern, origin in parameters.items():
        for number, layer, head in _numbers(pattern, targets, config.n_head):
            name = pattern.replace("#", str(number)).replace("*", str(head))
            tensor, *turns = origin.replace("#", str(layer)).split()
            if tensor == "0":
                state[name] = torch.zeros_like(targets[name])
                continue
            if tensor not in file:
                raise ValueError(f"{checkpoint}: no tensor {tensor}")
            used.add(tensor)
            turned = _turned(file[tensor], turns, config.n_head, rows=".c_proj." in tensor)
            state[name] = _in_front(turned[head] if "*" in pattern else turned, targets.get(name))
    expected = _shapes(lacks, config)
    for name, shape in expected.items():
        if name not in file or file[name].shape != shape:
            found = list(file[name].shape) if name in file else "no tensor"
            raise ValueError(f"{checkpoint}: {name}: expected {list(shape)}, found {found}")
    if others := sorted(file.keys() - used - expected.keys()):
        raise ValueError(f"{checkpoint}: tensors without a place in the model: {', '.join(others)}")
    if unfilled := sorted(targets.keys() - state.keys()):
        raise ValueError(f"parameters that get no tensor: {', '.join(unfilled)}")
    for name, filling in state.items():  # a module's own way to load may resize what it gets
        if filling.shape != targets[name].shape:
            shapes = f"{list(filling.shape)}, where the model has {list(targets[name].shape)}"
            raise ValueError(f"{checkpoint}: {name} gets {shapes}")
    model.load_state_dict(state, strict=False)  # its buffers are its own


def _shapes(patterns: Collection[str], config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Return the vectors of GPT-2's file for which patterns stand, with their shapes."""
    widths = {"c_attn.bias": 3 * config.n_embd, "c_fc.bias": config.mlp_width}
    return {
        pattern.replace("#", str(layer)): (
            next((width for end, width in widths.items() if pattern.endswith(end)), config.n_embd),
        )
        for pattern in patterns
        for layer in range(config.n_layer)
    }


def _numbers(
    pattern: str, targets: Mapping[str, Tensor], n_head: int
) -> Iterator[tuple[int, int, int]]:
    """Yield for what a pattern stands: a number in the model, the layer that it is, and a head."""
    start, _, end = pattern.replace("*", "0").partition("#")
    found = (
        name.removeprefix(start).removesuffix(end)
        for name in targets
        if name.startswith(start) and name.endswith(end)
    )
    numbers = sorted(int(number) for number in found if number.isdigit())
    for layer, number in enumerate(numbers if "#" in pattern else [0]):
        yield from ((number, layer, head) for head in range(n_head if "*" in pattern else 1))


def _in_front(tensor: Tensor, target: Tensor | None) -> Tensor:
    """Give a tensor the dimensions of one that its parameter has in front of it."""
    more = target.dim() - tensor.dim() if target is not None else 0
    if target is not None and more > 0 and target.shape[:more].numel() == 1:
        return tensor.reshape(*target.shape[:more], *tensor.shape)
    return tensor


def _turned(tensor: Tensor, turns: list[str], n_head: int, *, rows: bool) -> Tensor:
    """Take the part of a tensor, and turn it. `rows`: the heads are in its rows."""
    for turn in turns:
        if turn in ("q", "k", "v"):
            tensor = tensor.chunk(3, -1)["qkv".index(turn)]
        elif turn == "heads" and rows:
            tensor = tensor.unflatten(0, (n_head, -1))
        elif turn == "heads":
            tensor = tensor.unflatten(-1, (n_head, -1)).movedim(-2, 0)
        elif turn == "T":
            tensor = tensor.mT
        else:
            raise ValueError(f"{turn!r} after a tensor's name: expected q, k, v, heads or T")
    return tensor


@contextmanager
def handing_over(checkpoint: str) -> Iterator[None]:
    """Let `from_pretrained` of transformers read this checkpoint, whatever name it is given."""
    model, auto, config = (
        transformers.PreTrainedModel,
        transformers.models.auto.auto_factory._BaseAutoModelClass,
        transformers.PreTrainedConfig
        if hasattr(transformers, "PreTrainedConfig")
        else transformers.PretrainedConfig,
    )
    with (
        patch.object(model, "from_pretrained", _redirected(model.from_pretrained, checkpoint)),
        patch.object(auto, "from_pretrained", _redirected(auto.from_pretrained, checkpoint)),
        patch.object(config, "get_config_dict", _redirected(config.get_config_dict, checkpoint)),
    ):
        yield


def _redirected(method: Any, checkpoint: str) -> Any:
    """Return a class method that gets the checkpoint in place of the name."""
    original = method.__func__

    def read(cls: type, name: object = None, *args: Any, **options: Any) -> Any:  # noqa: ARG001
        options.pop("pretrained_model_name_or_path", None)
        return original(cls, checkpoint, *args, **options)

    return classmethod(read)
