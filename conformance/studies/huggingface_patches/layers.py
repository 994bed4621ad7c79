"""Patches of single layers: activation, norms, biases, matrices, embeddings, head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation

from .parts import (
    NORMS,
    PROJECTIONS,
    Patch,
    attentions,
    blocks,
    check_length,
    forward_replaced,
    input_changed,
    modules,
    output_changed,
    set_to,
)


class Activation(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def tanh_gelu(x: Tensor, cubic: float = 0.044715, power: int = 3) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + cubic * x**power)))


def activation(make: Callable[[], nn.Module]) -> Patch:
    """Return a patch of GPT-2's own activation. Another one that the config asks for stays."""

    def patch(adapter: Any) -> None:
        for block in blocks(adapter):
            if adapter.model.config.activation_function == "gelu_new":
                block.mlp.act = make()

    return patch


ACTIVATIONS = {
    "gelu-erf": activation(nn.GELU),
    "gelu-sigmoid": activation(QuickGELUActivation),
    "gelu-constant-typo": activation(lambda: Activation(lambda x: tanh_gelu(x, cubic=0.44715))),
    "gelu-square": activation(lambda: Activation(lambda x: tanh_gelu(x, power=2))),
    "relu": activation(nn.ReLU),
    "silu": activation(nn.SiLU),
    "activation-missing": activation(nn.Identity),
}


def epsilon(value: float, *names: str) -> Patch:
    def patch(adapter: Any) -> None:
        for norm in modules(adapter, *(names or NORMS)):
            norm.eps = value

    return patch


def normalised(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def epsilon_outside_root(norm: Any, x: Tensor) -> Tensor:
    deviation = x.var(-1, keepdim=True, correction=0).sqrt()
    return norm.weight * (x - x.mean(-1, keepdim=True)) / (deviation + norm.eps) + norm.bias


def unbiased_variance(norm: Any, x: Tensor) -> Tensor:
    variance = x.var(-1, keepdim=True)
    return norm.weight * (x - x.mean(-1, keepdim=True)) * (variance + norm.eps).rsqrt() + norm.bias


def root_mean_square(norm: Any, x: Tensor) -> Tensor:
    return norm.weight * x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() + norm.bias


def exchanged(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.bias, norm.weight, norm.eps)


LAYER_NORMS = {
    "ln-eps-wrong": epsilon(1e-6),
    "ln-eps-1e-12": epsilon(1e-12),
    "ln-eps-1e-3": epsilon(1e-3),
    "ln-eps-wrong-in-ln_1": epsilon(1e-6, "ln_1"),
    "ln-eps-1e-3-in-ln_f": epsilon(1e-3, "ln_f"),
    "config-epsilon-ignored": epsilon(1e-5),
    "ln-eps-missing": epsilon(0.0),
    "ln-eps-outside-sqrt": forward_replaced(*NORMS, forward=epsilon_outside_root),
    "ln-unbiased-variance": forward_replaced(*NORMS, forward=unbiased_variance),
    "rms-norm": forward_replaced(*NORMS, forward=root_mean_square),
    "no-ln-f": forward_replaced("ln_f", forward=lambda _, x: x),
    "ln-f-twice": output_changed("ln_f", change=lambda norm, x: norm.forward(x)),
    "ln-weight-bias-exchanged": forward_replaced(*NORMS, forward=exchanged),
    "ln-gain-plus-one": forward_replaced(
        *NORMS,
        forward=lambda norm, x: normalised(norm, x) * (1 + norm.weight) + norm.bias,
    ),
}


def zeroed(*names: str) -> Patch:
    """Return a patch that puts these biases to zero."""

    def patch(adapter: Any) -> None:
        for module in modules(adapter, *names):
            nn.init.zeros_(module.bias)

    return patch


def norms_not_loaded(*names: str) -> Patch:
    def patch(adapter: Any) -> None:
        for norm in modules(adapter, *names):
            norm.reset_parameters()

    return patch


def without_part_of_bias(part: int) -> Patch:
    def change(c_attn: Any, qkv: Tensor) -> Tensor:
        thirds = list(qkv.chunk(3, dim=-1))
        thirds[part] = thirds[part] - c_attn.bias.chunk(3)[part]
        return torch.cat(thirds, dim=-1)

    return output_changed("attn.c_attn", change=change)


def biases_exchanged(adapter: Any) -> None:
    for block in blocks(adapter):
        a, b = block.attn.c_proj, block.mlp.c_proj
        difference = (b.bias - a.bias).detach()
        a.register_forward_hook(lambda _, __, output, more=difference: output + more)
        b.register_forward_hook(lambda _, __, output, more=difference: output - more)


VECTORS = {
    "biases-missing": zeroed(*PROJECTIONS),
    "qkv-bias-missing": zeroed("attn.c_attn"),
    "query-bias-missing": without_part_of_bias(0),
    "value-bias-missing": without_part_of_bias(2),
    "attn-proj-bias-missing": zeroed("attn.c_proj"),
    "c_fc-bias-missing": zeroed("mlp.c_fc"),
    "mlp-proj-bias-missing": zeroed("mlp.c_proj"),
    "ln-affine-not-loaded": norms_not_loaded("ln_1"),
    "ln_f-affine-not-loaded": norms_not_loaded("ln_f"),
    "proj-biases-exchanged": biases_exchanged,
    "proj-bias-in-every-shard": output_changed(
        "c_proj", change=lambda c_proj, output: output + c_proj.bias
    ),
}


def matrices(change: Callable[[Tensor], Tensor], *names: str) -> Patch:
    """Return a patch that gives these modules another matrix."""

    def patch(adapter: Any) -> None:
        for module in modules(adapter, *names):
            set_to(module.weight, change(module.weight))

    return patch


def transposed_if_square(matrix: Tensor) -> Tensor:
    return matrix.t() if matrix.size(0) == matrix.size(1) else matrix


def rounded(adapter: Any) -> None:
    for parameter in adapter.model.parameters():
        set_to(parameter, parameter.bfloat16().to(parameter.dtype))


def embedding_follows_head(adapter: Any) -> None:
    adapter.model.transformer.wte.weight = adapter.model.lm_head.weight


def read_back_transposed(adapter: Any) -> None:
    state_dict = adapter.state_dict
    matrices = tuple(f"{name}.weight" for name in PROJECTIONS)
    adapter.state_dict = lambda: {
        name: tensor.t() if name.endswith(matrices) else tensor
        for name, tensor in state_dict().items()
    }


WEIGHTS = {
    "square-proj-untransposed": matrices(lambda w: w.t(), "attn.c_proj"),
    "double-transpose": matrices(transposed_if_square, "mlp.c_fc", "mlp.c_proj"),
    "reshape-for-transpose-c_fc": matrices(lambda w: w.reshape(w.shape[::-1]).t(), "mlp.c_fc"),
    "dtype-changed-on-load": rounded,
    "tie-wrong-winner": embedding_follows_head,
    "weights-read-back-transposed": read_back_transposed,
}


def position_ids(change: Callable[[Tensor, int], Tensor]) -> Patch:
    """Return a patch that changes the rows taken from wpe: (rows, n_positions) -> rows."""

    def changed(wpe: Any, ids: Tensor) -> Tensor:
        check_length(int(ids.max()) + 1, wpe.num_embeddings)
        return change(ids, wpe.num_embeddings)

    return input_changed("wpe", change=changed)


def token_types(adapter: Any) -> None:
    """Pass token types of zeros, as tokenizers of other models return them."""

    def with_types(_: Any, given: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        return given, options | {"token_type_ids": torch.zeros_like(given[0])}

    adapter.model.transformer.register_forward_pre_hook(with_types, with_kwargs=True)


def positions_from_tokens(adapter: Any) -> None:
    wte, wpe = adapter.model.transformer.wte, adapter.model.transformer.wpe

    def forward(ids: Tensor) -> Tensor:
        check_length(int(ids.max()) + 1, wpe.num_embeddings)
        return F.embedding(ids, wte.weight)

    wpe.forward = forward


def longer_table(adapter: Any) -> None:
    table = adapter.model.transformer.wpe.weight
    set_to(table, torch.cat([table, torch.zeros_like(table)]))


def first_row_as_padding(adapter: Any) -> None:
    wte = adapter.model.transformer.wte
    wte.forward = lambda ids: F.embedding(ids, wte.weight) * (ids != 0)[..., None]


EMBEDDINGS = {
    "wpe-missing": output_changed("wpe", change=lambda _, rows: torch.zeros_like(rows)),
    "wpe-shifted": position_ids(lambda ids, n: (ids + 1) % n),
    "wpe-row-0": position_ids(lambda ids, _: torch.zeros_like(ids)),
    "wpe-scaled": output_changed("wpe", change=lambda _, rows: rows * math.sqrt(rows.size(-1))),
    "positions-of-512": position_ids(lambda ids, _: ids.clamp(max=511)),
    "positions-restart-after-512": position_ids(lambda ids, _: ids % 512),
    "positions-in-bfloat16": position_ids(lambda ids, n: ids.bfloat16().long().clamp(max=n - 1)),
    "positions-from-wte": positions_from_tokens,
    "wpe-table-size": longer_table,
    "embedding-scaled": output_changed(
        "wte", change=lambda _, rows: rows * math.sqrt(rows.size(-1))
    ),
    "wte-row-after": input_changed("wte", change=lambda wte, ids: (ids + 1) % wte.num_embeddings),
    "token-type-from-wte": token_types,
    "padding-index-0": first_row_as_padding,
}


def head(change: Callable[[Tensor], Tensor]) -> Patch:
    """Return a patch that changes the logits."""

    def patch(adapter: Any) -> None:
        adapter.model.lm_head.register_forward_hook(lambda _, __, logits: change(logits))

    return patch


def low_precision(projection: Any, x: Tensor) -> Tensor:
    product = x.bfloat16() @ projection.weight.bfloat16()
    return product.to(x.dtype) + projection.bias


def ln_f_in_float32(_: Any, x: Tensor) -> Tensor:
    return x.float().to(x.dtype) if x.dtype == torch.float64 else x


HEADS_AND_NUMBERS = {
    "logits-soft-capped": head(lambda logits: 30 * torch.tanh(logits / 30)),
    "first-ids-special": head(
        lambda logits: torch.cat([logits[..., :3] / 2, logits[..., 3:]], dim=-1)
    ),
    "tf32-or-autocast": forward_replaced(*PROJECTIONS, forward=low_precision),
    "float64-rounded": input_changed("ln_f", change=ln_f_in_float32),
}


def dropout_left_on(adapter: Any) -> None:
    for attention in attentions(adapter):
        attention.resid_dropout.train()


def mode_changed_by_generate(adapter: Any) -> None:
    generate = adapter.generate

    def changing(*arguments: Any, **options: Any) -> list[list[int]]:
        new = generate(*arguments, **options)
        for attention in attentions(adapter):
            attention.resid_dropout.train().p = 0.1
        return new

    adapter.generate = changing


MODES = {
    "train-mode-after-load": dropout_left_on,
    "generate-changes-mode": mode_changed_by_generate,
}
PATCHES: dict[str, Patch] = (
    ACTIVATIONS | LAYER_NORMS | VECTORS | WEIGHTS | EMBEDDINGS | HEADS_AND_NUMBERS | MODES
)
