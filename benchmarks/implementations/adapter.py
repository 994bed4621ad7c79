"""Any GPT-2 that the conformance suite can judge, by the same adapter (docs/adapters.md).

The loop depends on the methods that the adapter has. The first of these that is there is taken:

- `stream`, or a `generate` that takes `on_step`: its own loop, with the time of each step;
- `generate`: its own loop; its steps' time is the difference between calls (`lengths.py`);
- `prefill` and `step`: the loop here, with the time of each step, and gpt2ref's sampler;
- `logits` alone: the textbook's loop here, which feeds the whole sequence again for each token.

An engine's own loop comes first, because it is what its users run. A `step` of the suite's protocol
may have to copy its cache, and that of a program sends all its logits through a pipe.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sampling import Sampling
from ..suite import part
from .gpt2ref import choose_as_loop
from .protocol import Implementation, RefusedError, TokenIds

COMMAND = "command:"
CACHED = "the benchmark's, with its prefill() and step() and gpt2ref's sampler"
TEXTBOOK = "the textbook's: logits() of the whole sequence for each token, and gpt2ref's sampler"
CALLS = "its own generate(), which reports no steps: rates come from calls of several lengths"


@lru_cache
def adapter_class(specification: str) -> type[FromAdapter]:
    """Find an adapter by its name on the command line. Raises pytest.UsageError if there is none.

    The class of a file is made once, so its module is imported once.
    """
    adapter = part("adapters.adapter").Adapter(specification, "cpu", torch.float32)
    return type("FromAdapter", (FromAdapter,), {"adapter": adapter})


class FromAdapter(Implementation):
    """A GPT-2 behind the suite's protocol. `adapter_class` makes a class for each adapter."""

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint, self.device = checkpoint, device
        with _refused(), _threads_of_programs():
            judged = self.adapter.load(checkpoint, device=str(device), dtype=dtype)
        self.model = judged.unchecked
        self.vocab_size = judged.vocab_size
        self.forms = part("adapters.forms")
        methods = {name for name in ("stream", "generate", "prefill", "step") if self._has(name)}
        self.takes_on_step = "generate" in methods and _takes_on_step(self.model.generate)
        self.run: Callable[..., TokenIds]
        if "stream" in methods:
            self.run = self._stream
        elif self.takes_on_step:
            self.run = self._generate
        elif "generate" in methods:
            self.run, self.reports_steps, self.loop = self._generate, False, CALLS
        elif {"prefill", "step"} <= methods:
            self.run, self.foretold, self.loop = self._cached, True, CACHED
        else:
            self.run, self.foretold, self.loop = self._textbook, True, TEXTBOOK

    def _has(self, name: str) -> bool:
        return getattr(self.model, name, None) is not None

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        token_ids = torch.tensor(prompts, device=self.device)
        with _refused():
            return self.run(token_ids, sampling, max_new_tokens, seed, on_step)

    def _generate(
        self,
        token_ids: Tensor,
        sampling: Sampling,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        """Call its own generate. It is asked for top_k=1 where it refuses temperature 0 by name."""
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed}
        options |= {"on_step": on_step} if self.takes_on_step else {}
        greedy = {"temperature": 1.0, "top_k": 1}
        setting = {"temperature": sampling.temperature, "top_k": sampling.top_k}
        by_top_k = self.greedy_by_top_k and sampling.temperature == 0
        try:
            answer = self.model.generate(token_ids, **options, **greedy if by_top_k else setting)
        except Exception as error:
            refused = sampling.temperature == 0 and "temperature" in str(error).lower()
            if by_top_k or not refused:
                raise
            answer = self.model.generate(token_ids, **options, **greedy)
            self.greedy_by_top_k = True
        rows: TokenIds = self.forms.token_rows(
            answer, token_ids.tolist(), "generate", max_new_tokens
        )
        return rows

    def _stream(
        self,
        token_ids: Tensor,
        sampling: Sampling,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        new: TokenIds = [[] for _ in token_ids]
        setting = {"temperature": sampling.temperature, "top_k": sampling.top_k}
        steps = self.model.stream(token_ids, max_new_tokens=max_new_tokens, seed=seed, **setting)
        for ids in steps:
            for row, token_id in zip(new, ids, strict=True):
                row.append(int(token_id))
            on_step()
        return new

    @torch.no_grad()
    def _cached(self, token_ids: Tensor, *asked: Any) -> TokenIds:
        cache: Any = None

        def feed(fed: Tensor, first: bool) -> Tensor:
            nonlocal cache
            method = "prefill" if first else "step"
            answer = self.model.prefill(fed) if first else self.model.step(fed, cache)
            logits, cache = self.forms.logits_and_cache(answer, method)
            return self._checked(logits, fed, method)

        return self._loop(token_ids, feed, False, *asked)

    @torch.no_grad()
    def _textbook(self, token_ids: Tensor, *asked: Any) -> TokenIds:
        def feed(fed: Tensor, _first: bool) -> Tensor:
            return self._checked(self.model.logits(fed), fed, "logits")

        return self._loop(token_ids, feed, True, *asked)

    def _loop(
        self,
        token_ids: Tensor,
        feed: Callable[[Tensor, bool], Tensor],
        whole: bool,
        sampling: Sampling,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        """Feed the prompts, then each chosen token, or with `whole` the sequence up to it."""
        new: TokenIds = [[] for _ in token_ids]
        draws = [random.Random(seed + row) for row in range(len(new))]
        fed = token_ids
        for count in range(max_new_tokens):
            logits = feed(fed, count == 0)[:, -1]
            uniform = torch.tensor([draw.random() for draw in draws], dtype=torch.float64)
            chosen = choose_as_loop(
                logits,
                uniform.to(logits.device),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
            )
            for row, token_id in zip(new, chosen.tolist(), strict=True):
                if token_id < 0:
                    raise ValueError(f"the logits of new token {count} are not finite")
                row.append(token_id)
            on_step()
            last = chosen.to(self.device)[:, None]
            fed = torch.cat([fed, last], dim=1) if whole else last
        return new

    def _checked(self, logits: Any, fed: Tensor, method: str) -> Tensor:
        checked: Tensor = self.forms.logits_tensor(logits, fed, method, self.vocab_size)
        return checked

    def pipe_seconds(self, prompts: TokenIds, max_new_tokens: int) -> float | None:
        if not self.adapter.specification.startswith(COMMAND):
            return None
        from .pipe import echoing, message_seconds

        methods = [name for name in ("generate", "prefill", "step") if self._has(name)]
        echo = adapter_class(echoing(methods))(self.checkpoint, self.device, torch.float32)
        return message_seconds(echo, prompts, max_new_tokens)


def _takes_on_step(generate: Callable[..., Any]) -> bool:
    try:
        return "on_step" in inspect.signature(generate).parameters
    except (TypeError, ValueError):  # some builtin functions have no signature
        return False


@contextmanager
def _refused() -> Iterator[None]:
    """Raise RefusedError where the adapter raises NotImplementedError."""
    try:
        yield
    except (NotImplementedError, part("outcomes").NotApplicable) as error:
        raise RefusedError(str(error) or "the adapter says so") from error


@contextmanager
def _threads_of_programs() -> Iterator[None]:
    """Let a program that is started here, and uses OpenMP, take as many threads as torch."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
