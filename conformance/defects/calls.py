"""Defects that keep something from one call to the next, or drop out in some calls alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..probes.gpt2 import Weights
from .catalogue import KNOWLEDGE, defect
from .complete import Cache, CompleteGPT2, length


class PromptsKept(CompleteGPT2):
    """Keeps what the first pass over a prompt gave, and finds it again by a key."""

    def convert(self, tensors: Weights) -> Weights:
        self.kept: dict[Hashable, tuple[Tensor, Cache]] = {}
        return super().convert(tensors)

    def key(self, rows: Sequence[Sequence[int]]) -> Hashable:
        return tuple(map(tuple, rows))

    def found(self, rows: Sequence[Sequence[int]]) -> Hashable:
        """Return the key. A cache fits prompts of the same number and the same lengths alone."""
        return tuple(map(len, rows)), self.key(rows)


class PromptsOfGenerate(PromptsKept):
    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        if cache:
            return super().next_logits(rows, cache)
        key = self.found(rows)
        if key not in self.kept:
            self.kept[key] = super().next_logits(rows, cache)
        return self.kept[key]


@defect("prompt-found-by-shape", "generation.second-prompt", "NVIDIA/TensorRT-LLM #8813")
class FoundByShape(PromptsOfGenerate):
    """A prompt's cache is found again by its shape alone, whatever its tokens are."""

    def key(self, rows: Sequence[Sequence[int]]) -> Hashable:
        return len(rows)


@defect("prompt-found-by-last-token", "generation.second-prompt")
class FoundByLastToken(PromptsOfGenerate):
    """A prompt's cache is found again by its last token, the one that is fed next."""

    def key(self, rows: Sequence[Sequence[int]]) -> Hashable:
        return tuple(row[-1] for row in rows)


@defect(
    "prompt-found-by-first-block",
    "generation.second-prompt",
    "openvinotoolkit/openvino.genai #3722, had it been no collision",
)
class FoundByFirstBlock(PromptsOfGenerate):
    """A prompt's cache is found again by its first block of four tokens."""

    def key(self, rows: Sequence[Sequence[int]]) -> Hashable:
        return tuple(tuple(row[:4]) for row in rows)


@defect("prefill-found-by-last-token", "cache.second-prompt")
class PrefillFoundByLastToken(PromptsKept):
    """A prompt gets the cache of an earlier prompt that has the same last token in each row."""

    def key(self, rows: Sequence[Sequence[int]]) -> Hashable:
        return tuple(row[-1] for row in rows)

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Cache]:
        key = self.found(token_ids.tolist())
        if key not in self.kept:
            self.kept[key] = super().prefill(token_ids)
        return self.kept[key]

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.step(token_ids, [])[0]


class OffsetKept(CompleteGPT2):
    """A call without a cache starts at an offset that the model keeps, if there is room."""

    kept_offset = 0

    def positions(self, real: Tensor, past: int) -> Tensor:
        positions = super().positions(real, past)
        room = self.kept_offset + real.size(1) <= self.config.n_positions
        return positions + self.kept_offset if past == 0 and room else positions

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, Cache]:
        self.kept_offset = 0
        return super().prefill(token_ids)

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.step(token_ids, [])[0]


@defect(
    "positions-of-last-step",
    "cache.second-prompt",
    f"a position counter on the model, which prefill alone resets; {KNOWLEDGE}",
)
class PositionsOfLastStep(OffsetKept):
    """A plain call after a cached step goes on at the position where the step ended."""

    def step(self, token_ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        logits, new = super().step(token_ids, cache)
        if cache:
            self.kept_offset = length(new)
        return logits, new


@defect("positions-of-generate", "generation.leaves-no-trace")
class PositionsOfGenerate(OffsetKept):
    """A plain call after generate goes on at the position where the new tokens ended."""

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.kept_offset = 0
        new = super().generate_ragged(prompts, **options)
        self.kept_offset = max(len(row) for pair in zip(prompts, new, strict=True) for row in pair)
        return new


@defect("padding-left-over", "generation.leaves-no-trace")
class PaddingLeftOver(CompleteGPT2):
    """The padding of a ragged batch stays on the model, and hides tokens of the next batch."""

    hidden: Tensor | None = None

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.hidden = None
        new = super().generate_ragged(prompts, **options)
        longest = max(map(len, prompts))
        self.hidden = torch.tensor(
            [[place < longest - len(prompt) for place in range(longest)] for prompt in prompts]
        )
        return new

    def mask(self, real: Tensor, past: int) -> Tensor:
        hidden = self.hidden
        if hidden is None or past or real.shape[0] != len(hidden):
            return super().mask(real, past)
        time = min(real.size(1), hidden.size(1))
        real = real.clone()
        real[:, :time] &= ~hidden[:, :time].to(real.device)
        return super().mask(real, past)


@defect("top-k-kept", "sampling.top-k-none")
class TopKKept(CompleteGPT2):
    """The last top_k stays on the model, and holds for a call without one."""

    last_top_k: int | None = None

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        self.last_top_k = top_k or self.last_top_k
        return super().probabilities(logits, temperature, self.last_top_k)


class DropoutInGenerate(CompleteGPT2):
    """Has the config's dropout in the loop alone."""

    generating = False

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.generating = True
        try:
            return super().generate_ragged(prompts, **options)
        finally:
            self.generating = False

    def dropped_by_field(self, x: Tensor, field: str) -> Tensor:
        return torch.dropout(x, self.fields.get(field, 0.0), train=self.generating)


@defect(
    "dropout-in-generate",
    "generation.dropout",
    "karpathy/ng-video-lecture #16; pytorch/examples #114; jcjohnson/torch-rnn #31",
)
class TrainingWhileGenerating(DropoutInGenerate):
    """eval() is called for the loss and not for generate, which has dropout."""

    def merge(self, attended: Tensor) -> Tensor:
        return self.dropped_by_field(super().merge(attended), "resid_pdrop")


@defect("attention-dropout-in-generate", "generation.dropout", f"a fused kernel; {KNOWLEDGE}")
class AttentionDropoutInGenerate(DropoutInGenerate):
    """The kernel for one query is given the dropout probability in evaluation too."""

    def attention_weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        weights = super().attention_weights(scores, mask)
        return self.dropped_by_field(weights, "attn_pdrop") if scores.size(2) == 1 else weights


@defect("embedding-dropout-in-generate", "generation.dropout")
class EmbeddingDropoutInGenerate(DropoutInGenerate):
    """The function that embeds the newest token drops some of its channels."""

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return self.dropped_by_field(super().embed(token_ids, positions), "embd_pdrop")


@defect("training-after-generate", "generation.leaves-no-trace", "huggingface/trl #155")
class TrainingAfterGenerate(CompleteGPT2):
    """generate calls eval() and ends with train(): what follows has the config's dropout."""

    left_in_training = False

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.left_in_training = False
        new = super().generate_ragged(prompts, **options)
        self.left_in_training = True
        return new

    def merge(self, attended: Tensor) -> Tensor:
        probability = self.fields.get("resid_pdrop", 0.0)
        return torch.dropout(super().merge(attended), probability, train=self.left_in_training)
