"""Reads a step that nobody knows, so that it can be granted as it is."""

from __future__ import annotations

from ..defects.catalogue import Mistake
from .attention_reading import read_attention
from .curve_reading import read_curve
from .head_reading import read_head
from .position_reading import read_positions
from .question import EMBEDDINGS, HEAD, WITH_ATTENTION, WITH_MLP
from .solving import Subject

# The steps that must be right, or else there is another mistake in what is read.
_ALONE = {
    HEAD: frozenset({"head"}),
    EMBEDDINGS: frozenset({"positions", "embed_positions"}),
    WITH_ATTENTION: frozenset({"attention_weights", "mask"}),
    WITH_MLP: frozenset({"activation"}),
}
_READ = {
    HEAD: read_head,
    EMBEDDINGS: read_positions,
    WITH_ATTENTION: read_attention,
    WITH_MLP: read_curve,
}


def read_step(subject: Subject, parts: frozenset[str]) -> Mistake | None:
    """Return the step that questions of these parts are about as it was read.

    It is None if it can't be read.
    """
    steps = _ALONE.get(parts)
    if steps is None or any(steps & each.steps for each in subject.granted):
        return None
    return _READ[parts](subject)
