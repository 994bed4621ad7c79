"""Restrictions of the draw that nobody asked for, and temperatures that fail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2ref import EOS

from .catalogue import KNOWLEDGE, defect
from .complete import Cache, CompleteGPT2


@defect("top-p-unasked", "sampling.rare-tokens", "ollama/ollama #17679; kekzl/imp #1596")
class TopPUnasked(CompleteGPT2):
    """A nucleus of 0.95 is left on: the likeliest tokens that have that probability together."""

    top_p = 0.95

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        chances = super().probabilities(logits, temperature, top_k)
        largest, token_ids = chances.sort(dim=-1, descending=True)
        largest[largest.cumsum(-1) - largest > self.top_p] = 0.0
        return torch.zeros_like(chances).scatter(-1, token_ids, largest)


@defect("min-p-unasked", "sampling.rare-tokens", f"llama.cpp's default of 0.05; {KNOWLEDGE}")
class MinPUnasked(CompleteGPT2):
    """Tokens with less than a twentieth of the largest probability are left out."""

    min_p = 0.05

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        chances = super().probabilities(logits, temperature, top_k)
        return chances * (chances >= self.min_p * chances.amax(-1, keepdim=True))


@defect("top-p-of-99-percent-unasked", "sampling.rare-tokens", f"a default of 0.99; {KNOWLEDGE}")
class TopPOf99Percent(TopPUnasked):
    """A nucleus of 0.99 is left on: the last percent of the probability is never drawn."""

    top_p = 0.99


@defect(
    "epsilon-cutoff-unasked",
    "sampling.rare-tokens",
    f"epsilon_cutoff of transformers' GenerationConfig; {KNOWLEDGE}",
)
class EpsilonCutoffUnasked(CompleteGPT2):
    """Tokens with a probability below 3e-4 are left out."""

    epsilon_cutoff = 3e-4

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        chances = super().probabilities(logits, temperature, top_k)
        return chances * (chances >= chances.amax(-1, keepdim=True).clamp(max=self.epsilon_cutoff))


@defect(
    "top-k-of-50-unasked",
    "sampling.top-k-none",
    "huggingface/transformers #38549; modelscope/ms-swift #9071",
)
class TopKOf50Unasked(CompleteGPT2):
    """`top_k or 50`: None becomes the default of transformers."""

    top_k = 50

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, temperature, top_k or self.top_k)


@defect("top-k-of-1024-unasked", "sampling.top-k-none", f"a kernel's limit; {KNOWLEDGE}")
class TopKOf1024Unasked(CompleteGPT2):
    """The draw is from 1,024 candidates at most, and None asks for as many."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, temperature, min(top_k or 1024, 1024))


@defect("half-the-vocabulary-unasked", "sampling.top-k-none", f"a sampler's shortcut; {KNOWLEDGE}")
class HalfTheVocabulary(CompleteGPT2):
    """Without a top_k, the less likely half of the vocabulary is left out for speed."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, temperature, top_k or logits.size(-1) // 2)


class Penalised(CompleteGPT2):
    """The logits depend on the tokens so far, [vocab] for each row."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        logits, cache = super().next_logits(rows, cache)
        penalised = [self.penalty(*pair) for pair in zip(logits, rows, strict=True)]
        return torch.stack(penalised), cache

    def penalty(self, logits: Tensor, row: Sequence[int]) -> Tensor:
        return logits


@defect("repetition-penalty-unasked", "sampling.repetition", "ollama/ollama #17679")
class RepetitionPenaltyUnasked(Penalised):
    """A repetition penalty of 1.1 is left on."""

    repetition_penalty = 1.1

    def penalty(self, logits: Tensor, row: Sequence[int]) -> Tensor:
        said, penalised = list(set(row)), logits.clone()
        penalised[said] = torch.where(
            logits[said] > 0,
            logits[said] / self.repetition_penalty,
            logits[said] * self.repetition_penalty,
        )
        return penalised


@defect("presence-penalty-unasked", "sampling.repetition", f"OpenAI's API has one; {KNOWLEDGE}")
class PresencePenaltyUnasked(Penalised):
    """A token's logit sinks by 0.2 once it was said."""

    presence_penalty = 0.2

    def penalty(self, logits: Tensor, row: Sequence[int]) -> Tensor:
        penalised = logits.clone()
        penalised[list(set(row))] -= self.presence_penalty
        return penalised


@defect("frequency-penalty-unasked", "sampling.repetition", f"OpenAI's API has one; {KNOWLEDGE}")
class FrequencyPenaltyUnasked(Penalised):
    """A token's logit sinks by 0.01 each time that it is said."""

    frequency_penalty = 0.01

    def penalty(self, logits: Tensor, row: Sequence[int]) -> Tensor:
        times = torch.tensor(row).bincount(minlength=len(logits))
        return logits - self.frequency_penalty * times.to(logits.dtype)


@defect("n-grams-blocked", "sampling.repetition", f"no_repeat_ngram_size of 4; {KNOWLEDGE}")
class NGramsBlocked(Penalised):
    """A token that would repeat four tokens is never chosen."""

    no_repeat_ngram_size = 4

    def penalty(self, logits: Tensor, row: Sequence[int]) -> Tensor:
        n = self.no_repeat_ngram_size
        grams = (row[i : i + n] for i in range(len(row) - n + 1))
        blocked = [gram[-1] for gram in grams if gram[:-1] == row[len(row) - n + 1 :]]
        penalised = logits.clone()
        penalised[blocked] = float("-inf")
        return penalised


@defect("token-biased", "eos.no-other", f"logit_bias of OpenAI's API, left on; {KNOWLEDGE}")
class TokenBiased(Penalised):
    """The logit of one token is lowered, here by a tenth."""

    def penalty(self, logits: Tensor, row: Sequence[int]) -> Tensor:
        return logits.index_add(0, torch.tensor([31415]), torch.tensor([-0.1], dtype=logits.dtype))


@defect(
    "eos-likelier-with-length",
    "eos.probability",
    f"transformers' exponential_decay_length_penalty, left on; {KNOWLEDGE}",
)
class EosLikelierWithLength(Penalised):
    """EOS's logit rises by 0.2 with each token, so that texts end."""

    def penalty(self, logits: Tensor, row: Sequence[int]) -> Tensor:
        risen = logits.clone()
        risen[EOS] += 0.2 * len(row)
        return risen


@defect("low-temperature-crash", "sampling.temperature-range", "microsoft/aici #19")
class LowTemperatureCrash(CompleteGPT2):
    """The quotient overflows at a small temperature, and there is an error."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        if temperature > 0 and not torch.tensor(1 / temperature, dtype=torch.float16).isfinite():
            raise RuntimeError("probability tensor contains either inf, nan or element < 0")
        return super().next_token(logits, uniform, temperature, top_k)


@defect(
    "quotient-in-float16",
    "sampling.temperature-range",
    "karpathy/nanoGPT@3adf61e15:model.py; karpathy/minGPT@37baab71b:mingpt/model.py",
)
class QuotientInFloat16(CompleteGPT2):
    """Logits of float16 are divided in float16: the quotient overflows at a small temperature."""

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        if temperature > 0 and (logits / temperature).isposinf().any():
            raise RuntimeError("probability tensor contains either inf, nan or element < 0")
        return super().next_token(logits, uniform, temperature, top_k)


@defect("temperature-clamped", "sampling.temperature-range", f"a server's limits; {KNOWLEDGE}")
class TemperatureClamped(CompleteGPT2):
    """The temperature is at most 2."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        return super().probabilities(logits, min(temperature, 2.0), top_k)
