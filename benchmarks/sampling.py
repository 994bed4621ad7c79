"""How a token is chosen: one setting of the sampler, and the settings that the grids are made of."""

from __future__ import annotations

from dataclasses import dataclass

TopK = int | None  # None is no restriction

FULL_TEMPERATURES: tuple[float, ...] = (0.0, 0.7, 1.0, 1.3)
FULL_TOP_KS: tuple[TopK, ...] = (None, 1, 40, 200, 1000)
SHORT_TEMPERATURES: tuple[float, ...] = (0.0, 1.0)
SHORT_TOP_KS: tuple[TopK, ...] = (None, 40)


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; `top_k=None` is no restriction."""

    temperature: float
    top_k: TopK

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1

    def __str__(self) -> str:
        return f"temperature={self.temperature:g}-top_k={self.top_k}"
