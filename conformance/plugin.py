"""For pytest, where the suite is installed: `pytest --pyargs gpt2ref_conformance --implementation my_gpt2.py`.

pytest reads the options of a conftest.py only in the folders that are named on its command line. So the name of this
package, or of one of its modules, becomes its path there, and nothing is done to any other run of pytest.
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
    """gpt2ref_conformance.test_eos::test_x -> .../test_eos.py::test_x; what is not of this package stays."""
    name, *rest = word.split("::")
    package, _, module = name.partition(".")
    if package != __package__:
        return word
    path = FOLDER / (f"{module.replace('.', '/')}.py" if module else "")
    return "::".join([str(path), *rest])
