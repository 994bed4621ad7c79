"""From logits to probabilities: temperature, top-k, and what the loop passes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .catalogue import KNOWLEDGE, defect, equivalent
from .complete import Cache, CompleteGPT2, restricted


@defect(
    "topk-none-unbound", "sampling.top-k-none", "the loop as printed in a summary of the textbook"
)
class NoneUnbound(CompleteGPT2):
    """The probabilities are computed inside `if top_k is not None`, and are unbound without it."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None:
            chances = super().probabilities(logits, temperature, top_k)
        return chances


@defect(
    "topk-larger-than-vocab",
    "sampling.top-k-above-vocabulary",
    "karpathy/nanoGPT@91d02510; TransformerLensOrg/TransformerLens #1347",
)
class LargerThanVocabulary(CompleteGPT2):
    """torch.topk(logits, k) is called without min(k, vocab), which is an error above it."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None:
            logits.topk(top_k)
        return super().probabilities(logits, temperature, top_k)


@defect("topk-zero", "sampling.top-k-zero", "karpathy/nanochat #466")
class TopKZero(CompleteGPT2):
    """k = 0, meant as off, leaves nothing to choose from."""

    def check(self, temperature: float, top_k: int | None) -> None:
        pass

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k == 0:
            logits.topk(0).values[:, -1]
        return super().probabilities(logits, temperature, top_k)


@defect("topk-equals-vocab-rejected", "sampling.top-k-above-vocabulary", "ml-explore/mlx-lm #1377")
class VocabularyRejected(CompleteGPT2):
    """A strict 0 < k < vocab refuses the k that restricts nothing."""

    def check(self, temperature: float, top_k: int | None) -> None:
        assert top_k is None or 0 < top_k < self.config.vocab_size


@defect("topk-drops-kth", "sampling.top-k")
class DropsTheKth(CompleteGPT2):
    """The threshold is compared with `<=` instead of `<`, so the k-th token goes too."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None and 1 < top_k < logits.size(-1):
            logits = logits.masked_fill(
                logits <= logits.topk(top_k).values[..., -1:], float("-inf")
            )
        return super().probabilities(logits, temperature, None)


@defect("topk-of-distinct-logits", "sampling.top-k-ties", f"sorted(set(logits)); {KNOWLEDGE}")
class TopKOfDistinctLogits(CompleteGPT2):
    """The k largest different logits stay, so two tokens that are tied count as one."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None:
            rows = [row.unique()[-top_k:][0] for row in logits]
            logits = logits.masked_fill(logits < torch.stack(rows)[:, None], float("-inf"))
        return super().probabilities(logits, temperature, None)


@defect("topk-off-by-one", "sampling.top-k-one", "kingoflolz/mesh-transformer-jax #164")
class OneTokenMore(CompleteGPT2):
    """One token more than k stays."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, temperature, top_k and top_k + 1)


@defect(
    "threshold-no-keepdim",
    "sampling.top-k",
    "rasbt/LLMs-from-scratch@28c65cdfb; graykode/gpt-2-Pytorch@46ae886:GPT2/sample.py",
)
class ThresholdWithoutDimension(CompleteGPT2):
    """The k-th values lose their last dimension, so more than one row is an error."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None and top_k < logits.size(-1):
            logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1], float("-inf"))
        return super().probabilities(logits, temperature, None)


@defect(
    "threshold-of-first-row",
    "sampling.top-k-one",
    "rasbt/LLMs-from-scratch@28c65cdfb, had it been broadcast",
)
class ThresholdOfFirstRow(CompleteGPT2):
    """The k-th value of the first row is the threshold of every row."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        if top_k is not None and top_k < logits.size(-1):
            logits = logits.masked_fill(logits < logits.topk(top_k).values[:1, -1:], float("-inf"))
        return super().probabilities(logits, temperature, None)


@defect(
    "args-not-forwarded",
    "sampling.temperature-zero",
    "markhliu/DGAI@23700d3c9; NVIDIA/TensorRT-LLM #6451; huggingface/transformers.js #1422",
)
class ArgumentsNotForwarded(CompleteGPT2):
    """The public function takes temperature and top_k, and passes on constants."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits, uniform, 1.0, None)


@equivalent("temperature-after-topk")
class TemperatureAfterTopK(CompleteGPT2):
    """The temperature divides after top-k, which keeps the order, and minus infinity."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return (restricted(logits.double(), top_k) / temperature).softmax(-1)


@defect("temperature-after-softmax", "sampling.distribution")
class TemperatureAfterSoftmax(CompleteGPT2):
    """Probabilities are divided by the temperature, which the draw normalises away."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return restricted(logits.double(), top_k).softmax(-1) / temperature


@defect("temperature-multiplied", "sampling.distribution")
class TemperatureMultiplied(CompleteGPT2):
    """Logits are multiplied by the temperature instead of divided by it."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, 1 / temperature, top_k)


@defect("temperature-zero-crash", "sampling.temperature-zero", "karpathy/nanoGPT #738")
class TemperatureZeroCrash(CompleteGPT2):
    """Temperature 0 divides by 0, which gives NaN, and the draw fails."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return (
            (restricted(logits, top_k) / temperature).softmax(-1).multinomial(1)[:, 0]
            if temperature == 0
            else super().next_token(logits, uniform, temperature, top_k)
        )


@defect("temperature-zero-ignored", "sampling.temperature-zero", "inclusionAI/LLaDA2.X #6")
class TemperatureZeroIgnored(CompleteGPT2):
    """Temperature 0 skips the division, and samples at temperature 1."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits, uniform, temperature or 1.0, top_k)


@defect("softmax-dim-zero", "sampling.distribution")
class SoftmaxOverBatch(CompleteGPT2):
    """The softmax is taken over the rows of the batch (dim=0), not over the tokens."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return (restricted(logits.double(), top_k) / temperature).softmax(0).nan_to_num(0.0)


@defect(
    "softmax-sampler-rewrite",
    "sampling.distribution",
    "vllm-project/vllm #753, #819; 0hq/WebGPT@674c822",
)
class SoftmaxTwice(CompleteGPT2):
    """The softmax is taken twice."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        chances = super().probabilities(logits, temperature, top_k)
        return chances.softmax(-1) * (chances > 0)


@defect("temperature-above-one-refused", "sampling.distribution", f"a range check; {KNOWLEDGE}")
class TemperatureAboveOneRefused(CompleteGPT2):
    """An assertion holds the temperature between 0 and 1, where 2 is legal too."""

    def check(self, temperature: float, top_k: int | None) -> None:
        super().check(temperature, top_k)
        assert temperature <= 1


class WithoutMaximum(CompleteGPT2):
    """The softmax does not subtract the maximum, and its exponentials are float32."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        weights = (restricted(logits, top_k).float() / temperature).exp()
        return self.checked(weights / weights.sum(-1, keepdim=True))

    def checked(self, chances: Tensor) -> Tensor:
        return chances


@defect(
    "sampler-without-maximum",
    "sampling.distribution",
    "tensorflow/tensorflow #2774; intel/xFasterTransformer #326",
)
class SoftmaxWithoutMaximum(WithoutMaximum):
    """The maximum is not subtracted: logits around -120 give 0/0, whose NaN leads to any token."""


@defect(
    "sampler-without-maximum-crash",
    "sampling.distribution",
    "QwenLM/Qwen3-TTS #355; vllm-project/vllm-omni #3252: the same error, of an overflow",
)
class SoftmaxWithoutMaximumCrash(WithoutMaximum):
    """The maximum is not subtracted: logits around -120 give 0/0, and the draw refuses NaN."""

    def checked(self, chances: Tensor) -> Tensor:
        if not chances.isfinite().all():
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
        return chances


@defect(
    "loop-feeds-prompt", "generation.greedy", "jorgensandhaug/gpt-2-from-scratch@53f44ac03:model.py"
)
class PromptFedAgain(CompleteGPT2):
    """The loop feeds the prompt each time, not the growing sequence."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        self.fed = getattr(self, "fed", 0)
        logits, _ = super().next_logits([row[: len(row) - self.fed] for row in rows], [])
        self.fed += 1
        return logits, cache

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.fed = 0
        return super().generate_ragged(prompts, **options)


@defect(
    "nan-hidden",
    "sampling.nan",
    "HaileyStorm/ChirpGPT@8f3b8c60c:audio_in_out.py; karpathy/nanoGPT #273",
)
class NaNHidden(CompleteGPT2):
    """nan_to_num replaces NaN, so random text comes instead of an error."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits.nan_to_num(), uniform, temperature, top_k)


@equivalent("argmax-of-probabilities")
class ArgmaxOfProbabilities(CompleteGPT2):
    """Greedy takes the largest probability, not the largest logit: the softmax keeps the order."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        return super().next_token(logits.softmax(-1).log(), uniform, temperature, top_k)


@equivalent("unnormalised-multinomial")
class UnnormalisedDraw(CompleteGPT2):
    """The draw gets top-k probabilities that do not add up to one, and normalises them itself."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        chances = (logits.double() / temperature).softmax(-1)
        return chances if top_k is None else chances * (restricted(logits, top_k) > float("-inf"))
