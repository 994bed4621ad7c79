"""The interface of an implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..notes import OWN_LOOP
from ..sampling import Sampling

TokenIds = list[list[int]]  # of each row


class RefusedError(Exception):
    """An implementation says that it can't do what a cell asks. The argument is the reason."""


class Implementation(ABC):
    """A GPT-2, loaded and ready to generate."""

    # Whether row r draws `random.Random(seed + r).random()` once a step and inverts the cumulative
    # distribution with it, as gpt2ref does. Then its sampled tokens can be predicted; otherwise
    # they can only be shown to be possible.
    foretold: bool = False

    # Whether `generate` calls `on_step`. If it does not, the decode rate comes from calls for
    # several numbers of tokens (`lengths.py`).
    reports_steps: bool = True

    # The loop that generates, in words.
    loop: str = OWN_LOOP

    # Whether it is asked for top_k=1 where it refuses temperature 0.
    greedy_by_top_k: bool = False

    # The suite's adapter, if it is one (`adapter.py`).
    adapter: ClassVar[Any] = None

    # The format that `__init__` reads the weights from, in words.
    source: ClassVar[str] = "checkpoint"

    @abstractmethod
    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Load what `convert` returned, to compute in `dtype` on `device`.

        On the CPU it has to use as many threads as torch. Raises RefusedError if it can't.
        """

    @abstractmethod
    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        """Return the new ids of each row. The weights never give EOS (`weights.never_eos`).

        Calls `on_step` when the ids of a step are on the host, if `reports_steps`. Raises
        RefusedError if it can't do what is asked.
        """

    def sampling_step(
        self,
        logits: Tensor,  # noqa: ARG002
        uniform: Tensor,  # noqa: ARG002
        sampling: Sampling,  # noqa: ARG002
    ) -> Callable[[], object] | None:
        """Return a function that chooses one token a row, as the loop does. None if there is none.

        It reads what `logits` [batch, vocab] and `uniform`, float64 [batch], contain when it is
        called. On CUDA it does not wait for the device.
        """
        return None

    def pipe_seconds(self, prompts: TokenIds, max_new_tokens: int) -> float | None:  # noqa: ARG002
        """Return what a step costs that only carries messages, or a call without `reports_steps`.

        None if the implementation runs in this process.
        """
        return None

    def turn(self) -> AbstractContextManager[object]:
        """Return a context for each call of `generate`, entered and left outside the measured time.

        It sets up what would disturb the other implementations if it stayed.
        """
        return nullcontext()

    @classmethod
    def convert(cls, checkpoint: Path, folder: Path) -> Path:  # noqa: ARG003
        """Convert a checkpoint in Hugging Face's layout. Return the path that `__init__` loads.

        `folder` does not exist yet.
        """
        return checkpoint

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: ARG003
        """Return why it can't compute in this dtype on this device. None if it can."""
        return None
