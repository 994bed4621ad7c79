"""From logits to a token: temperature, top-k, the draw, its random numbers."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .catalogue import defect, equivalent
from .parts import Cache, Parts


def kept(logits: Tensor, top_k: int | None) -> Tensor:
    """Logits with minus infinity below the k-th largest, as OpenAI's sample.py and the textbook's loop have it."""
    if top_k is None or top_k >= logits.size(-1):
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], float("-inf"))


@defect(
    "topk-none-unbound", "sampling.top-k-none", "the loop as printed in a summary of the textbook"
)
class NoneUnbound(Parts):
    """The probabilities are computed inside `if top_k is not None`."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None:
            shares = super().probabilities(logits, temperature, top_k)
        return shares


@defect(
    "topk-larger-than-vocab",
    "sampling.top-k-above-vocabulary",
    "karpathy/nanoGPT@91d02510; TransformerLensOrg/TransformerLens #1347",
)
class LargerThanVocabulary(Parts):
    """torch.topk(logits, k) without min(k, vocab)."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None:
            logits.topk(top_k)
        return super().probabilities(logits, temperature, top_k)


@defect("topk-zero", "sampling.top-k-zero", "karpathy/nanochat #466")
class TopKZero(Parts):
    """k = 0, meant as off, leaves nothing to choose from."""

    def check(self, temperature: float, top_k: int | None) -> None:
        pass

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k == 0:
            logits.topk(0).values[:, -1]
        return super().probabilities(logits, temperature, top_k)


@defect("topk-equals-vocab-rejected", "sampling.top-k-above-vocabulary", "ml-explore/mlx-lm #1377")
class VocabularyRejected(Parts):
    """A strict 0 < k < vocab refuses the k that restricts nothing."""

    def check(self, temperature: float, top_k: int | None) -> None:
        assert top_k is None or 0 < top_k < self.config.vocab_size


@defect("topk-drops-kth", "sampling.top-k")
class DropsTheKth(Parts):
    """`<=` for `<`: the k-th goes too."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None and 1 < top_k < logits.size(-1):
            logits = logits.masked_fill(
                logits <= logits.topk(top_k).values[..., -1:], float("-inf")
            )
        return (logits / temperature).softmax(-1)


@defect("topk-off-by-one", "sampling.top-k-one", "kingoflolz/mesh-transformer-jax #164")
class OneTokenMore(Parts):
    """k + 1 tokens stay."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, temperature, top_k and top_k + 1)


@defect(
    "threshold-no-keepdim",
    "sampling.top-k",
    "rasbt/LLMs-from-scratch@28c65cdfb; graykode/gpt-2-Pytorch@46ae886:GPT2/sample.py",
)
class ThresholdWithoutDimension(Parts):
    """The k-th values have lost their last dimension, [batch] beside [batch, vocab]: an error for more than one row."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None and top_k < logits.size(-1):
            logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1], float("-inf"))
        return (logits / temperature).softmax(-1)


@defect(
    "threshold-of-first-row",
    "sampling.top-k-one",
    "rasbt/LLMs-from-scratch@28c65cdfb, had it been broadcast",
)
class ThresholdOfFirstRow(Parts):
    """The k-th value of the first row is every row's."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None and top_k < logits.size(-1):
            logits = logits.masked_fill(logits < logits.topk(top_k).values[:1, -1:], float("-inf"))
        return (logits / temperature).softmax(-1)


@defect(
    "args-not-forwarded",
    "sampling.temperature-zero",
    "markhliu/DGAI@23700d3c9; NVIDIA/TensorRT-LLM #6451; huggingface/transformers.js #1422",
)
class ArgumentsNotForwarded(Parts):
    """The public function takes temperature and top_k, and gives constants to the one that works."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits, uniform, 1.0, None)


@equivalent("temperature-after-topk")
class TemperatureAfterTopK(Parts):
    """Dividing keeps the order, and minus infinity."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return (kept(logits, top_k) / temperature).softmax(-1)


@defect("temperature-after-softmax", "sampling.distribution")
class TemperatureAfterSoftmax(Parts):
    """Probabilities divided by the temperature, which the draw normalises away."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return kept(logits, top_k).softmax(-1) / temperature


@defect("temperature-multiplied", "sampling.distribution")
class TemperatureMultiplied(Parts):
    """logits * temperature."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, 1 / temperature, top_k)


@defect("temperature-zero-crash", "sampling.temperature-zero", "karpathy/nanoGPT #738")
class TemperatureZeroCrash(Parts):
    """Division by 0 gives NaN, and the draw falls over."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return (
            (kept(logits, top_k) / temperature).softmax(-1).multinomial(1)[:, 0]
            if temperature == 0
            else super().next_token(logits, uniform, temperature, top_k)
        )


@defect("temperature-zero-ignored", "sampling.temperature-zero", "inclusionAI/LLaDA2.X #6")
class TemperatureZeroIgnored(Parts):
    """Temperature 0 skips the division, and samples at temperature 1."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits, uniform, temperature or 1.0, top_k)


@defect("softmax-dim-zero", "sampling.distribution")
class SoftmaxOverBatch(Parts):
    """softmax(dim=0): the shares of the rows, not of the tokens."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return (kept(logits, top_k) / temperature).softmax(0).nan_to_num(0.0)


@defect(
    "softmax-sampler-rewrite",
    "sampling.distribution",
    "vllm-project/vllm #753, #819; 0hq/WebGPT@674c822",
)
class SoftmaxTwice(Parts):
    """The softmax of what is a softmax already."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        shares = super().probabilities(logits, temperature, top_k)
        return shares.softmax(-1) * (shares > 0)


@defect(
    "loop-feeds-prompt", "generation.greedy", "jorgensandhaug/gpt-2-from-scratch@53f44ac03:model.py"
)
class PromptFedAgain(Parts):
    """The loop feeds the prompt each time, not the growing sequence: independent draws of one next token."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        self.fed = getattr(self, "fed", 0)
        logits, _ = super().next_logits([row[: len(row) - self.fed] for row in rows], [])
        self.fed += 1
        return logits, cache

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.fed = 0
        return super().generate_ragged(prompts, **options)


@defect(
    "zero-prob-drawn", "sampling.top-k", "pytorch/pytorch #48841, #13867; Lightning-AI/litgpt #2325"
)
class ZeroDrawn(Parts):
    """The first token whose cumulative probability is >= a half-precision number, which is 0 once in 2,048 draws."""

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        coarse = (uniform * 2048).floor() / 2048
        cumulative = probabilities.cumsum(-1)
        return (cumulative >= coarse[:, None] * cumulative[:, -1:]).byte().argmax(-1)


@defect("cpu-half-sampling", "sampling.top-k", "Lightning-AI/litgpt #2325")
class HalfPrecisionRace(Parts):
    """argmax of p / exponential noise in float16, where the noise may be 0: 0/0 is NaN, and wins."""

    def draw(self, probabilities: Tensor, uniform: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(uniform[0] * 2**53))
        noise = torch.empty_like(probabilities).exponential_(generator=generator)
        return (probabilities.half() / (noise * 2e-4).half()).argmax(-1)


@defect(
    "nan-hidden",
    "sampling.nan",
    "HaileyStorm/ChirpGPT@8f3b8c60c:audio_in_out.py; karpathy/nanoGPT #273",
)
class NaNHidden(Parts):
    """nan_to_num makes random text of what should be an error."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits.nan_to_num(), uniform, temperature, top_k)


@defect("reseed-each-call", "sampling.seed", "masonwang025/gpt-2-from-scratch@b907032c4:yap.py")
class ReseededEachCall(Parts):
    """manual_seed(42) inside generate: every call has the same draws."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return super().generators(42, batch)


@defect(
    "reseed-each-step",
    "sampling.independent-draws",
    "masonwang025/gpt-2-from-scratch@b907032c4:yap.py",
)
class ReseededEachStep(Parts):
    """Seeded anew in each step: the same quantile each time."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        for generator in generators:
            generator.setstate(self.states.setdefault(id(generator), generator.getstate()))
        return super().uniform(generators)

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        self.states: dict[int, Any] = {}
        return super().generators(seed, batch)


@defect("global-rng-used", "sampling.seed", "ml-explore/mlx-lm #1580; bytedance/GRN #27")
class GlobalGenerator(Parts):
    """Drawn from torch's global generator; the seed is not looked at."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return torch.rand(len(generators), dtype=torch.float64)


@defect("global-rng-seeded", "sampling.seed")
class GlobalGeneratorSeeded(Parts):
    """The seed goes to torch's global generator, which everything else draws from too."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        torch.manual_seed(seed)
        return super().generators(seed, batch)

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return torch.rand(len(generators), dtype=torch.float64)


@defect("seed-from-clock", "sampling.seed")
class SeededByClock(Parts):
    """The seed is taken from the clock."""

    def generators(self, seed: int, batch: int) -> list[random.Random]:
        return super().generators(time.monotonic_ns(), batch)


@defect("rows-share-draw", "sampling.independent-draws")
class RowsShareDraw(Parts):
    """One random number for all rows: identical prompts have identical continuations."""

    def uniform(self, generators: Sequence[random.Random]) -> Tensor:
        return super().uniform(generators)[:1].expand(len(generators))


@equivalent("argmax-of-probabilities")
class ArgmaxOfProbabilities(Parts):
    """Greedy takes the largest probability, not the largest logit: the softmax keeps the order."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits.softmax(-1).log(), uniform, temperature, top_k)


@equivalent("unnormalised-multinomial")
class UnnormalisedDraw(Parts):
    """The draw is given top-k probabilities that do not add up to one, and normalises them itself."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        shares = (logits / temperature).softmax(-1)
        return shares if top_k is None else shares * (kept(logits, top_k) > float("-inf"))
