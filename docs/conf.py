"""`sphinx-build -W -b html docs build/docs`: the documentation as a site. It needs no network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from docs import generate
from gpt2ref import __version__

generate.write()  # before Sphinx looks for pages

project = "gpt2ref"
author = "The gpt2ref authors"
copyright = "The gpt2ref authors. MIT licence."
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
smartquotes = False  # -- and " are meant as they are written
default_role = "literal"  # `code` in a docstring
highlight_language = "text"  # where a block does not say

myst_heading_anchors = 3  # page.md#heading, as on a code host

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"gpt2ref {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
