"""A step that no entry has, as it was read out of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .complete import CompleteGPT2


@dataclass(frozen=True)
class Read:
    """A mistake that was read. The fields are those of an `Entry`.

    `file`: what was read. `name`: the id. `like`: the entry that fails the same requirements.
    """

    file: Path

    name: ClassVar[str]
    like: ClassVar[str]
    family: ClassVar[str]
    steps: ClassVar[frozenset[str]]
    requirement: ClassVar[None] = None
    source: ClassVar[str] = "read out of the logits"

    @property
    def id(self) -> str:
        return self.name

    @property
    def specification(self) -> str:
        """The name that `combined` takes."""
        return f"{self.name}={self.file}"

    @property
    def what(self) -> str:
        raise NotImplementedError

    @property
    def kind(self) -> type[CompleteGPT2]:
        raise NotImplementedError

    @classmethod
    def of(cls, specification: str) -> Read:
        """Read name=file. Raises KeyError if there is no such file."""
        file = Path(specification.partition("=")[2])
        if not file.is_file():
            raise KeyError(specification)
        return cls(file)
