"""A step that no entry has, as it was read out of the logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .complete import CompleteGPT2


class Read(ABC):
    """A mistake that was read. The fields are those of an `Entry`.

    `name`: the id. `like`: an entry that fails about the same requirements.
    """

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
    @abstractmethod
    def specification(self) -> str:
        """The name that `combined` takes."""

    @property
    @abstractmethod
    def what(self) -> str:
        """A sentence that says what was read."""

    @property
    @abstractmethod
    def kind(self) -> type[CompleteGPT2]:
        """The class that has the mistake."""

    @classmethod
    @abstractmethod
    def of(cls, specification: str) -> Read:
        """Return what has this specification. Raises KeyError if there is none."""


@dataclass(frozen=True)
class ReadFile(Read):
    """A mistake that was read into a file."""

    file: Path

    @property
    def specification(self) -> str:
        return f"{self.name}={self.file}"

    @classmethod
    def of(cls, specification: str) -> ReadFile:
        """Read name=file. Raises KeyError if there is no such file."""
        file = Path(specification.partition("=")[2])
        if not file.is_file():
            raise KeyError(specification)
        return cls(file)
