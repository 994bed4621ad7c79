"""A number of heads that does not depend on the config, as it was read."""

from __future__ import annotations

from dataclasses import dataclass

from .complete import CompleteGPT2
from .read import Read


@dataclass(frozen=True)
class ReadNHead(Read):
    """A fixed number of heads. It shows where a config has another."""

    number: int

    name = "n-head"
    like = "n-head-wrong"
    family = "heads"
    steps = frozenset({"n_head"})

    @property
    def id(self) -> str:
        return f"{self.name}={self.number}"

    @property
    def specification(self) -> str:
        return self.id

    @classmethod
    def of(cls, specification: str) -> ReadNHead:
        """Read n-head=NUMBER. Raises KeyError for anything else."""
        number = specification.partition("=")[2]
        if not number.isdecimal() or not int(number):
            raise KeyError(specification)
        return cls(int(number))

    @property
    def what(self) -> str:
        return f"There are {self.number} heads, whatever the config says."

    @property
    def kind(self) -> type[CompleteGPT2]:
        return type("NHead", (CompleteGPT2,), {"n_head": self.number})
