"""Defects of a sampler that computes in half precision, although the logits are float32."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect, equivalent
from .complete import CompleteGPT2


class Rounded(CompleteGPT2):
    """Probabilities and their cumulative sums have a dtype of their own."""

    of_probabilities = of_sums = torch.float32

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        chances = super().probabilities(logits, temperature, top_k)
        return chances.to(self.of_probabilities)

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        cumulative = probabilities.cumsum(-1, dtype=self.of_sums)
        drawn = torch.searchsorted(
            cumulative, (uniform[:, None] * cumulative[:, -1:]).to(self.of_sums), right=True
        )
        # A product that is rounded up is not below the last sum: it takes the last possible token.
        last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
        return torch.minimum(drawn, last)[:, 0]


@equivalent("draw-in-float32")
class DrawInFloat32(Rounded):
    """Probabilities, their sums and the random numbers are float32, as torch.multinomial's are.

    A random number has 24 bits, and a sum is rounded by a thousandth of a token's probability.
    """

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return (super().uniform(generators) * 2**24).floor() / 2**24


@defect("softmax-in-float16", "sampling.many-tokens", "huggingface/transformers #27341")
class SoftmaxInFloat16(Rounded):
    """Probabilities are float16, and so are their cumulative sums, which then stand still."""

    of_probabilities = of_sums = torch.float16


@defect("softmax-in-bfloat16", "sampling.many-tokens", "genlm/genlm-backend #66")
class SoftmaxInBfloat16(Rounded):
    """Probabilities are bfloat16, and so are their cumulative sums, which then stand still."""

    of_probabilities = of_sums = torch.bfloat16


@defect("sums-in-float16", "sampling.many-tokens", f"a softmax in float32 before it; {KNOWLEDGE}")
class SumsInFloat16(Rounded):
    """The cumulative sums alone are float16."""

    of_sums = torch.float16


@defect("random-numbers-in-float16", "sampling.many-tokens", f"torch.rand's dtype; {KNOWLEDGE}")
class RandomNumbersInFloat16(CompleteGPT2):
    """A random number has the 11 bits of float16, and chooses among 2,048 tokens."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return (super().uniform(generators) * 2**11).floor() / 2**11


@defect("logits-in-float16", "sampling.close-logits", "sgl-project/sglang #773")
class LogitsInFloat16(CompleteGPT2):
    """The sampler gets logits that were rounded to float16."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits.half(), uniform, temperature, top_k)


@defect("logits-in-bfloat16", "sampling.close-logits", "microsoft/onnxruntime-genai #1479")
class LogitsInBfloat16(CompleteGPT2):
    """The sampler gets logits that were rounded to bfloat16."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits.bfloat16(), uniform, temperature, top_k)


@defect("argmax-in-bfloat16", "sampling.close-logits", "vllm-project/tpu-inference #3127, #3363")
class ArgmaxInBfloat16(CompleteGPT2):
    """The argmax alone reads bfloat16, in which the largest logits are equal."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        if temperature == 0:
            logits = logits.bfloat16()
        return super().next_token(logits, uniform, temperature, top_k)


@defect("threshold-in-float16", "sampling.close-logits", f"top-k before an upcast; {KNOWLEDGE}")
class ThresholdInFloat16(CompleteGPT2):
    """Logits are compared with the k-th largest in float16: one just below it stays."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        chances = super().probabilities(logits, temperature, None)
        if top_k is None or top_k >= logits.size(-1):
            return chances
        half = logits.half()
        return chances * (half >= half.topk(top_k).values[..., -1:])
