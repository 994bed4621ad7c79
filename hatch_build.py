"""Make the suite and the benchmarks importable in an editable install by their installed names."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAMES = {"conformance": "gpt2ref_conformance", "benchmarks": "gpt2ref_benchmarks"}
ELSEWHERE = "\n__path__ = [{folder!r}]  # in the working tree, under its installed name\n"


class EditableSuite(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "standard" or "editable"."""
        if version == "editable":
            self.made = TemporaryDirectory()
            for name, installed in NAMES.items():
                module = Path(self.made.name) / installed / "__init__.py"
                package = Path(self.root) / name
                text = (package / "__init__.py").read_text(encoding="utf-8")
                module.parent.mkdir()
                module.write_text(text + ELSEWHERE.format(folder=str(package)), encoding="utf-8")
                build_data["force_include_editable"][str(module)] = f"{installed}/__init__.py"

    def finalize(self, version: str, *_: object) -> None:
        if version == "editable":
            self.made.cleanup()
