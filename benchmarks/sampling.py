"""The settings of the sampler: temperature and top-k, and the values that make the grids."""

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

    @property
    def words(self) -> str:
        return f"temperature {self.temperature:g}, top-k {self.top_k or 'none'}"

    def __str__(self) -> str:
        """Name the setting in the id of a test."""
        return f"temperature={self.temperature:g}-top_k={self.top_k}"
