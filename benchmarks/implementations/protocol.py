"""What is asked of an implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ..sampling import Sampling

TokenIds = list[list[int]]  # of each row


class Implementation(ABC):
    """A GPT-2, loaded and ready to generate."""

    # Whether row r draws `random.Random(seed + r).random()` once a step and inverts the cumulative distribution with it,
    # as gpt2ref does. Then the tokens it samples can be foretold, and not only shown to be possible.
    foretold: ClassVar[bool] = False

    # Whether, on the CPU, its weights are the pages of the checkpoint's file, and so no copy beside that of others.
    mapped: ClassVar[bool] = False

    # The sampling step alone, where it can be had alone: logits [batch, vocab], uniform float64 [batch], temperature and
    # top_k by name -> ids [batch].
    next_token: ClassVar[Callable[..., Tensor] | None] = None

    # Where `__init__` reads the weights from.
    source: ClassVar[str] = "checkpoint"

    @abstractmethod
    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Load what `convert` gave, and compute in `dtype` on `device`, on the CPU with torch's number of threads."""

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
        """The new ids of each row. EOS ends nothing. `on_step` is called when the ids of a step are on the host."""

    def turn(self) -> AbstractContextManager[object]:
        """Entered around each call of `generate`, outside the time: for what would disturb the others if it stayed."""
        return nullcontext()

    @classmethod
    def convert(cls, checkpoint: Path, folder: Path) -> Path:  # noqa: ARG003 - for those that have a format of their own
        """What `__init__` is to load, from a checkpoint in Hugging Face's layout. `folder` does not exist yet."""
        return checkpoint

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: ARG003 - most take all
        """Why it can't compute in this dtype on this device; None if it can."""
        return None
