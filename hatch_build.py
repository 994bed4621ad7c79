"""Make the suite importable in an editable install under its installed name."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ELSEWHERE = "\n__path__ = [{folder!r}]  # the suite in the working tree, under its installed name\n"


class EditableSuite(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "standard" or "editable"."""
        if version == "editable":
            self.made = TemporaryDirectory()
            module = Path(self.made.name) / "__init__.py"
            suite = Path(self.root) / "conformance"
            text = (suite / "__init__.py").read_text(encoding="utf-8")
            module.write_text(text + ELSEWHERE.format(folder=str(suite)), encoding="utf-8")
            build_data["force_include_editable"][str(module)] = "gpt2ref_conformance/__init__.py"

    def finalize(self, version: str, *_: object) -> None:
        if version == "editable":
            self.made.cleanup()
