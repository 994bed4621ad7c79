"""Change the bytes of a checkpoint file, and load it."""

from __future__ import annotations

from pathlib import Path

from gpt2ref import CheckpointError, load_checkpoint


def check_refused_or_loads(path: Path, place: int, new: bytes, old: int) -> None:
    """Check that an error names the file, if there is one, when `new` replaces `old` bytes.

    Changed weights cannot be found: a file has no checksum of them.
    """
    data = path.read_bytes()
    place %= len(data)
    path.write_bytes(data[:place] + new + data[place + old :])
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017 - or no error
