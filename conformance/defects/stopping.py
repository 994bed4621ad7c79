"""The end of generation: EOS, the number of tokens, the end of the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2ref import EOS

from .catalogue import KNOWLEDGE, defect
from .complete import Cache, CompleteGPT2


@defect("eos-in-prompt", "eos.in-prompt", "OpenNMT/CTranslate2 #879")
class EosInPrompt(CompleteGPT2):
    """EOS is looked for in the whole sequence: one in the prompt ends it at once."""

    def ends_at_once(self, prompt: Sequence[int]) -> bool:
        return EOS in prompt


@defect(
    "eos-item-on-batch",
    "eos.per-row",
    "markhliu/DGAI@23700d3c9; rasbt/LLMs-from-scratch@28c65cdfb; Lightning-AI/lit-llama #153",
)
class EosItem(CompleteGPT2):
    """`idx_next.item() == eos` is an error for more than one row."""

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return [ended[0] or torch.tensor(chosen).item() == EOS]


@defect("eos-any-row", "eos.per-row")
class EosAnyRow(CompleteGPT2):
    """The first row that ends stops all rows."""

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return [any(super().ends(ended, chosen))] * len(ended)


@defect("eos-all-rows", "eos.per-row")
class EosAllRows(CompleteGPT2):
    """A row goes on until all rows have ended, with whatever comes after its EOS."""

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return [all(token_id == EOS for token_id in chosen)] * len(ended)


@defect(
    "eos-kept",
    "eos.middle",
    "GordonGustafson/llm-inference@075b239fe:sampler.py; greg00ry/browser-model-gpt-2@192d9e60d",
)
class EosKept(CompleteGPT2):
    """EOS is appended before it is looked at, and is part of the result."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        new = super().generate_ragged(prompts, max_new_tokens=max_new_tokens, **options)
        return [row if len(row) == max_new_tokens else [*row, EOS] for row in new]


@defect("eos-first-unseen", "eos.first-step")
class EosFirstUnseen(CompleteGPT2):
    """The token after prefill is taken before the loop that looks for EOS begins."""

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        self.step_number += 1
        return ended if self.step_number == 1 else super().ends(ended, chosen)

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.step_number = 0
        return super().generate_ragged(prompts, **options)


@defect("eos-last-kept", "eos.last-step")
class EosLastKept(CompleteGPT2):
    """The loop ends before it looks at the last token: an EOS there stays."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        new = super().generate_ragged(prompts, max_new_tokens=max_new_tokens, **options)
        return [[*row, EOS] if len(row) == max_new_tokens - 1 else row for row in new]


@defect("eos-not-wired", "eos.middle", "Lightning-AI/litgpt #812; huggingface/candle #1753")
class EosNotWired(CompleteGPT2):
    """No EOS is passed on: everything runs to the limit."""

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return [False] * len(chosen)


@defect("eos-wrong-id", "eos.middle", "Lightning-AI/litgpt #812")
class EosWrongId(CompleteGPT2):
    """The id before that of EOS is taken for EOS."""

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return super().ends(ended, [token_id + 1 for token_id in chosen])


@defect("length-off-by-one", "eos.never", "HaileyStorm/ChirpGPT@8f3b8c60c:audio_in_out.py")
class OneTokenTooMany(CompleteGPT2):
    """out[:, -(n + 1):] returns the prompt's last token among the new ones."""

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        return [
            [*prompt[-1:], *row]
            for prompt, row in zip(
                prompts, super().generate_ragged(prompts, **options), strict=True
            )
        ]


@defect("one-token-too-few", "eos.never")
class OneTokenTooFew(CompleteGPT2):
    """The loop runs from 1 to n - 1, one step too few."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        return super().generate_ragged(
            prompts, max_new_tokens=max(0, max_new_tokens - 1), **options
        )


@defect("one-new-token-crash", "eos.never")
class OneNewTokenCrash(CompleteGPT2):
    """The first new token comes before the loop, which sets a variable that is read after it."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        for _ in range(max_new_tokens - 1):
            new = super().generate_ragged(prompts, max_new_tokens=max_new_tokens, **options)
            break
        return new if max_new_tokens else [[] for _ in prompts]


@defect("no-new-token-crash", "eos.never")
class NoNewTokenCrash(CompleteGPT2):
    """With max_new_tokens=0, tokens are stacked of which there are none."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        new = super().generate_ragged(prompts, max_new_tokens=max_new_tokens, **options)
        if max_new_tokens == 0:
            torch.stack([torch.tensor(row[0]) for row in new if row])
        return new


@defect("nothing-said-crash", "eos.first-step")
class NothingSaidCrash(CompleteGPT2):
    """A row that begins with EOS has no new tokens, and stacking none of them is an error."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        new = super().generate_ragged(prompts, max_new_tokens=max_new_tokens, **options)
        if max_new_tokens > 0:
            for row in new:
                torch.stack([torch.tensor(token_id) for token_id in row])
        return new


@defect(
    "limit-counts-prompt",
    "eos.never",
    "huggingface/transformers #13983; EleutherAI/gpt-neo #268; guillaume-be/rust-bert #290",
)
class LimitCountsPrompt(CompleteGPT2):
    """max_new_tokens limits prompt and new tokens together, as transformers' max_length does."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        room = max(0, max_new_tokens - max(map(len, prompts)))
        return super().generate_ragged(prompts, max_new_tokens=room, **options)


@defect(
    "exact-fit-refused",
    "generation.exact-fit",
    "jaymody/picoGPT@817292bae:gpt2.py; vllm-project/vllm #16445",
)
class ExactFitRefused(CompleteGPT2):
    """A strict < refuses a prompt and new tokens that fill the context exactly."""

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        assert max(map(len, prompts)) + max_new_tokens != self.config.n_positions
        return super().generate_ragged(prompts, max_new_tokens=max_new_tokens, **options)


@defect(
    "no-crop",
    "generation.window",
    "huggingface/transformers #530; minimaxir/gpt-2-simple #72; intel/ipex-llm #12551",
)
class NoCrop(CompleteGPT2):
    """The context is never cropped, and one token past it is an index error."""

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        if max(map(len, rows)) > self.config.n_positions:
            raise IndexError("index out of range in self")
        return super().next_logits(rows, cache)


@defect("crop-wrong-side", "generation.window", "openai/gpt-2 #137")
class CropWrongSide(CompleteGPT2):
    """idx[:, :n_positions] keeps the first tokens, and the newest are not seen."""

    def crop(self, row: Sequence[int]) -> Sequence[int]:
        return row[: self.config.n_positions]


@defect(
    "empty-prompt",
    "generation.empty-prompt",
    "huggingface/transformers #3678, #3993; tinygrad/tinygrad #3100; guillaume-be/rust-bert #268",
)
class EmptyPrompt(CompleteGPT2):
    """An empty prompt is not replaced: the first token is drawn from logits of zero."""

    empty = False

    def next_token(
        self, logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None
    ) -> Tensor:
        if self.empty:
            self.empty, logits = False, torch.zeros_like(logits)
        return super().next_token(logits, uniform, temperature, top_k)

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.empty = not any(prompts)
        return super().generate_ragged(prompts, **options)


@defect("stops-at-blank-line", "eos.no-other", "stanford-crfm/helm #3948")
class StopsAtBlankLine(CompleteGPT2):
    """A blank line, id 628, ends a text as EOS does."""

    end_id = 628

    def ends(self, ended: list[bool], chosen: list[int]) -> list[bool]:
        return super().ends(ended, [EOS if each == self.end_id else each for each in chosen])


@defect("new-tokens-capped", "eos.no-other", f"a server's default; {KNOWLEDGE}")
class NewTokensCapped(CompleteGPT2):
    """There are never more than 128 new tokens, whatever max_new_tokens says."""

    max_new_tokens = 128

    def generate_ragged(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **options: Any
    ) -> list[list[int]]:
        most = min(max_new_tokens, self.max_new_tokens)
        return super().generate_ragged(prompts, max_new_tokens=most, **options)


@defect(
    "view-of-256",
    "generation.far-past",
    "rasbt/LLMs-from-scratch: a loop whose context_size is 256",
)
class ViewOf256(CompleteGPT2):
    """The loop feeds the last 256 tokens at most, in a model of 1024 positions."""

    view = 256

    def crop(self, row: Sequence[int]) -> Sequence[int]:
        return super().crop(row)[-self.view :]


class Unended(CompleteGPT2):
    """EOS can't be chosen while a row is too short."""

    def short(self, row: Sequence[int], new: int) -> bool:
        """Return whether the row, with this many new tokens, must go on."""
        return True

    def next_logits(self, rows: Sequence[Sequence[int]], cache: Cache) -> tuple[Tensor, Cache]:
        logits, cache = super().next_logits(rows, cache)
        short = [self.short(row, self.new) for row in rows]
        self.new += 1
        logits = logits.clone()
        logits[short, EOS] = float("-inf")
        return logits, cache

    def generate_ragged(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        self.new = 0
        return super().generate_ragged(prompts, **options)


@defect(
    "min-new-tokens-of-20",
    "eos.first-step",
    f"min_new_tokens of transformers, min_tokens of vLLM, left on; {KNOWLEDGE}",
)
class MinNewTokens(Unended):
    """EOS can't be chosen where a text would have fewer than 20 new tokens."""

    min_new_tokens = 20

    def short(self, row: Sequence[int], new: int) -> bool:
        return new < self.min_new_tokens


@defect("min-length-of-20", "eos.first-step", f"min_length of transformers, left on; {KNOWLEDGE}")
class MinLength(Unended):
    """EOS can't be chosen where a text and its prompt would have fewer than 20 tokens."""

    min_length = 20

    def short(self, row: Sequence[int], new: int) -> bool:
        return len(row) < self.min_length


@defect(
    "eos-never-chosen",
    "eos.first-step",
    f"a logit_bias or suppress_tokens that bans EOS, left on; {KNOWLEDGE}",
)
class EosNeverChosen(Unended):
    """EOS is never chosen, so every text has max_new_tokens."""
