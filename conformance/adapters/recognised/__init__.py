"""Recognises a GPT-2 that comes without an adapter, and writes the adapter that it needs.

What is found out becomes the text of an adapter (`written`), and this text is what is judged. So
the file of `--write-adapter` gives the same verdict as no adapter at all. Such a file imports these
functions.
"""

from .constants import set_fields
from .filling import fill, handing_over, published_name, read_config
from .source import definitions

__all__ = ["definitions", "fill", "handing_over", "published_name", "read_config", "set_fields"]
