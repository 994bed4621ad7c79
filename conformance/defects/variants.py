"""Where sources disagree: not mistakes. The suite has a verdict on each, and calls the other behaviour a variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .catalogue import variant
from .parts import Parts, Weights
from .weights import OwnHead


@variant("topk-exactly-k", "sampling.top-k-ties", "Lightning-AI/litgpt #729; karpathy/nanochat")
class ExactlyK(Parts):
    """Of tokens tied for the k-th place only as many stay as make k; OpenAI's sample.py keeps them all, and so do we."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        k = min(top_k or logits.size(-1), logits.size(-1))
        values, ids = logits.topk(k)
        return torch.zeros_like(logits).scatter(1, ids, (values / temperature).softmax(-1))


@variant(
    "temperature-zero-refused",
    "sampling.temperature-zero",
    "transformers generation/logits_process.py",
)
class TemperatureZeroRefused(Parts):
    """Temperature 0 is refused by name; OpenAI's sample.py divides by it, and we are greedy, as litgpt and nanochat."""

    def check(self, temperature: float, top_k: int | None) -> None:
        super().check(temperature, top_k)
        if temperature == 0:
            raise ValueError("temperature=0: expected a number above 0")


@variant(
    "context-end-refused",
    "generation.window",
    "transformers modeling_gpt2.py; rasbt/LLMs-from-scratch",
)
class ContextEndRefused(Parts):
    """Generation past n_positions is refused by name; the textbook's loop crops to the last n_positions, and so do we."""

    def crop(self, row: Sequence[int]) -> Sequence[int]:
        if len(row) > self.config.n_positions:
            raise ValueError(
                f"{len(row)} tokens, but there are {self.config.n_positions} positions"
            )
        return row


@variant("empty-prompt-refused", "generation.empty-prompt", "transformers generation/utils.py")
class EmptyPromptRefused(Parts):
    """A prompt without tokens is refused; OpenAI's generate_unconditional_samples.py starts from EOS, and so do we."""

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        if not all(prompts):
            raise ValueError("prompt: expected at least one token")
        return super().generate_ragged(prompts, **options)


@variant(
    "topk-zero-is-off",
    "sampling.top-k-zero",
    "openai/gpt-2 src/sample.py; transformers generation/utils.py",
)
class TopKZeroIsOff(Parts):
    """top_k=0 is no restriction; we refuse it, and have None for that."""

    def check(self, temperature: float, top_k: int | None) -> None:
        super().check(temperature, top_k or None)

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, temperature, top_k or None)


@variant("head-of-its-own", "keys.differing-head", "transformers 5, modeling_gpt2.py")
class HeadOfItsOwn(OwnHead):
    """An lm_head.weight unlike wte.weight is the head, and wte the embedding alone; we refuse it."""

    def load(self, tensors: Weights) -> Weights:
        rest = {key: tensor for key, tensor in tensors.items() if key != "lm_head.weight"}
        weights = super().load(rest)
        self.own_head = tensors.get("lm_head.weight", weights["wte.weight"]).to(self.dtype)
        return weights


@variant("head-overruled", "keys.differing-head", "transformers 4, modeling_gpt2.py")
class HeadOverruled(Parts):
    """An lm_head.weight unlike wte.weight is overruled by tying; we refuse it."""

    def load(self, tensors: Weights) -> Weights:
        return super().load(
            {key: tensor for key, tensor in tensors.items() if key != "lm_head.weight"}
        )


@variant("config-followed", "config.attention-scaling", "transformers modeling_gpt2.py")
class ConfigFollowed(Parts):
    """scale_attn_weights and scale_attn_by_inverse_layer_idx are followed, which no published GPT-2 sets; we refuse them."""

    def configure(self, fields: dict[str, Any]) -> Any:
        self.scaled = fields.get("scale_attn_weights", True)
        self.by_layer = fields.get("scale_attn_by_inverse_layer_idx", False)
        return super().configure(
            fields | {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
        )

    def scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        scores = super().scores(q, k, layer) if self.scaled else q @ k.mT
        return scores / (layer + 1) if self.by_layer else scores


@variant("centred-unembed", "head.raw", "TransformerLensOrg/TransformerLens #223, #693")
class Centred(Parts):
    """Each position's logits are shifted so that their mean is zero: probabilities are the same, raw logits are not."""

    def head(self, x: Tensor) -> Tensor:
        logits = super().head(x)
        return logits - logits.mean(-1, keepdim=True)
