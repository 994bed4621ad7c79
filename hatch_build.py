"""Make the suite importable in an editable install under its installed name."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = (
    '"""The suite in the working tree, under its installed name."""\n\n__path__ = [{folder!r}]\n'
)


class EditableSuite(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "standard" or "editable"."""
        if version == "editable":
            self.made = TemporaryDirectory()
            module = Path(self.made.name) / "__init__.py"
            module.write_text(
                PACKAGE.format(folder=str(Path(self.root) / "conformance")), encoding="utf-8"
            )
            build_data["force_include_editable"][str(module)] = "gpt2ref_conformance/__init__.py"

    def finalize(self, version: str, *_: object) -> None:
        if version == "editable":
            self.made.cleanup()
