"""The error of files that can't be written or read."""


class VectorsError(Exception):
    """A file can't be written or read. The message is one sentence, which names the file."""
