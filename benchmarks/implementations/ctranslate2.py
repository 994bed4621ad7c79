"""CTranslate2's Generator, without quantisation."""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ctranslate2
import torch

from ..sampling import Sampling
from ..suite import part
from .protocol import Implementation, TokenIds


class CTranslate2(Implementation):
    source = "its own format, converted beforehand"

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, device, dtype
        self.generator = self._load()

    def _load(self) -> ctranslate2.Generator:
        return ctranslate2.Generator(
            str(self.checkpoint),
            device=self.device.type,
            device_index=self.device.index or 0,
            compute_type=_compute_type(self.dtype),
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Load the model for its turn alone, so that its threads exist only then.

        With them there are more threads than cores, and then OpenMP lets all threads of the process
        sleep after each product instead of waiting: the others took a fifth longer.
        """
        if self.generator is None:
            self.generator = self._load()
            # The first call allocates memory.
            self.generator.generate_batch([["0"]], max_length=2, end_token=[])
        yield
        if self.device.type == "cpu":
            self.generator = None

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        # The generator reads the seed at its first draw. Later calls continue its random numbers.
        ctranslate2.set_random_seed(seed)
        seen = 0

        def count(_step: Any) -> bool:
            """Count the rows: CTranslate2 calls this for each row of each step."""
            nonlocal seen
            seen += 1
            if seen % len(prompts) == 0:
                on_step()
            return False  # do not stop

        results = self.generator.generate_batch(
            # The converter names each token by its id.
            [[str(token_id) for token_id in row] for row in prompts],
            max_length=max_new_tokens,
            # 0 is no restriction.
            sampling_topk=(sampling.top_k or 0) if sampling.temperature > 0 else 1,
            sampling_temperature=sampling.temperature or 1.0,
            end_token=[],
            include_prompt_in_result=False,  # feeds the prompt at once
            callback=count,
        )
        return [result.sequences_ids[0] for result in results]

    @classmethod
    def convert(cls, checkpoint: Path, folder: Path) -> Path:
        converter = part("adapters.ctranslate2").Converter(str(checkpoint))
        return Path(converter.convert(str(folder)))

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:
        supported = ctranslate2.get_supported_compute_types(device.type, device.index or 0)
        if _compute_type(dtype) in supported:
            return None
        return f"CTranslate2 has no {_compute_type(dtype)} on this {device.type}"


def _compute_type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
