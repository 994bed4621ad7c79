"""Read the pages of the documentation: their code blocks, their text, and code in the text."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in FILES
    if path.is_file()
}

FENCED = re.compile(r"^( *)(```+)(.*?)\n(.*?)^\1\2\n?", re.M | re.S)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return [code for _, _, name, code in FENCED.findall(PAGES[page]) if name.strip() == language]


def prose(page: str) -> str:
    """Return the page without its fenced code blocks."""
    return FENCED.sub("", PAGES[page])


def inline(page: str) -> list[str]:
    """Return the code spans in the text of a page."""
    return [" ".join(code.split()) for code in INLINE.findall(prose(page))]
