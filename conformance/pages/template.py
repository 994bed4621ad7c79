"""Render HTML pages and SVG charts from jinja2 templates.

Every page extends `templates/base.html`, which brings the style and the Content-Security-Policy.
A page is one file without scripts, and loads nothing. jinja2 escapes every value, since the names
of implementations and the texts of their exceptions come from anybody.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def render(name: str, *folders: Path, **values: Any) -> str:
    """Render the template `name`. `folders` hold templates besides those of this package.

    Raises jinja2.UndefinedError if the template uses a value that is missing.
    """
    return _environment(folders).get_template(name).render(values)


@cache
def _environment(folders: tuple[Path, ...]) -> Environment:
    return Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: object) -> object:
    """Replace control characters and lone surrogates, which HTML cannot contain."""
    if isinstance(value, Markup):  # the output of a macro, whose values have been replaced already
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))
