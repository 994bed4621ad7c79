"""Lets pytest run the installed suite by its name.

    pytest --pyargs gpt2ref_conformance --implementation my_gpt2.py

pytest reads the options of a conftest.py only in folders that its command line names. So this
plugin replaces the name of the package, or of one of its modules, by its path. It does nothing to
other runs.

The suite has two names, because `pytest conformance/` needs this folder in a clone, and an
installed package called `conformance` would collide with those of other projects.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    if early_config.known_args_namespace.pyargs:
        for words in (args, early_config.known_args_namespace.file_or_dir):
            words[:] = [path_of(word) for word in words]


def path_of(word: str) -> str:
    """Turn gpt2ref_conformance.test_eos::test_x into .../test_eos.py::test_x.

    A word that does not name this package is returned as it is.
    """
    name, *rest = word.split("::")
    package, _, module = name.partition(".")
    if package != __package__:
        return word
    path = FOLDER / (f"{module.replace('.', '/')}.py" if module else "")
    return "::".join([str(path), *rest])
