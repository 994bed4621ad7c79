"""Fixtures of the tests of the diagnosis, and of models that need no adapter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conformance.adapters.recognised.written import Found
from conformance.diagnosis.comparison import Comparison
from tests.shared.recognising import found_in, write_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a very small checkpoint, of other sizes than those with which a model is recognised."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """Return a function that writes a file, and returns what is recognised in it."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def look(text: str, name: str = "load", file: str = "model.py") -> Found:
        return found_in(tmp_path / file, text, name)

    return look


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return Comparison(tmp_path_factory.mktemp("comparison"), torch.float32)
