"""Reads an unknown embedding of the positions, whatever else is known to be wrong beside it.

With a wpe of zero, what is left is in no file. With random rows, what each position has tells which
rows it takes. Every channel has a reader (see `solving`). Two tokens are fed, each with a loud pair
of channels: LayerNorm hides how large a single stream is, and two that share the position do not.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import blank
from ..defects.complete import CompleteGPT2
from ..defects.read_positions import ReadPositions
from .solving import FIRST_READER, Reading, Subject, solved

LOUD, TOKENS = 300.0, (5, 6)
WIDTH = 32  # of the checkpoints with random rows
AT_ONCE = 64  # positions that are fitted
NONE = 1e-7  # below this, no part of a row is there
# The shapes of the suite's checkpoints: a rule may depend on the number of positions, and what is
# in no file on the width.
N_POSITIONS = (16, 13, 32, 37, 48, 128, 256, 530, 1024)
WIDTHS = {
    24: 1024, 48: 530, 128: 37, 64: 32, 8: 256, 80: 1024, 30: 1024, 36: 1024, 96: 16, 68: 48
}  # fmt: skip


def read_positions(subject: Subject) -> ReadPositions | None:
    """Return what positions have, or None if it can't be read, or is right."""
    first, most = N_POSITIONS[0], max(N_POSITIONS)
    added = _embedded(subject, torch.zeros(first, WIDTH))
    in_no_file = added is not None and bool(added.abs().max() > NONE)
    if in_no_file:
        added = _embedded(subject, torch.zeros(most, WIDTH))
    rows: dict[int, Tensor] = {}
    for n in N_POSITIONS:
        wpe = _random_rows(n)
        embedded = _embedded(subject, wpe)
        if added is None or embedded is None:
            return None
        taken = rows_of(embedded - added[:n] if in_no_file else embedded, wpe.double())
        if taken is None or (n == first and not in_no_file and _right(taken)):
            return None
        rows[n] = taken
    vectors: dict[int, Tensor] = {}
    for width, n in WIDTHS.items() if in_no_file else ():
        if (read := _embedded(subject, torch.zeros(n, width))) is None:
            return None
        vectors[width] = read
    file = subject.new_folder() / "positions.json"
    written = {
        name: {key: tensor.tolist() for key, tensor in each.items()}
        for name, each in (("rows", rows), ("added", vectors))
    }
    file.write_text(json.dumps(written), encoding="utf-8")
    return ReadPositions(file)


def _random_rows(n: int) -> Tensor:
    rows = torch.empty(n, WIDTH).normal_(0.0, 0.1, generator=torch.Generator().manual_seed(3))
    return rows - rows.mean(-1, keepdim=True)  # no reader sees a mean


def _right(taken: Tensor) -> bool:
    """Return whether each position takes its own row, once."""
    (rows, factors), others = taken[:, 0].unbind(-1), taken[:, 1, 1]
    own = rows == torch.arange(len(taken))
    return bool((own & ((factors - 1).abs() < NONE) & (others == 0)).all())


def rows_of(embedded: Tensor, wpe: Tensor) -> Tensor | None:
    """Return the rows that each position takes, and their factors: float64 [position, 2, 2].

    A position takes one row, or two that are neighbours. Returns None if it takes others.
    """
    n = len(wpe)
    following = wpe.roll(-1, dims=0)
    factors, left = _fitted(embedded, wpe[:, None])
    pairs, left_of_pairs = _fitted(embedded, torch.stack([wpe, following], dim=1))
    one, two = left.argmin(-1), left_of_pairs.argmin(-1)
    at = torch.arange(n)
    taken = torch.zeros(n, 2, 2, dtype=torch.float64)
    taken[:, 0] = torch.stack([one.double(), factors[at, one, 0]], dim=-1)
    taken[:, 1, 0] = one.double()
    several = left[at, one] > NONE
    taken[several, 0] = torch.stack([two.double(), pairs[at, two, 0]], dim=-1)[several]
    taken[several, 1] = torch.stack([((two + 1) % n).double(), pairs[at, two, 1]], dim=-1)[several]
    if (several & (left_of_pairs[at, two] > NONE)).any():
        return None
    factors = taken[..., 1]
    taken[..., 1] = torch.where(factors.abs() < NONE, 0.0, factors)
    return taken


def _fitted(embedded: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Fit each position [position, width] with each set of rows [set, row, width].

    Return the factors [position, set, row], and the largest number that is left.
    """
    factors = torch.einsum("pw,swr->psr", embedded, torch.linalg.pinv(rows))
    lefts = [
        (each[:, None] - torch.einsum("psr,srw->psw", part, rows)).abs().amax(-1)
        for each, part in zip(embedded.split(AT_ONCE), factors.split(AT_ONCE), strict=True)
    ]
    return factors, torch.cat(lefts)


def _embedded(subject: Subject, wpe: Tensor) -> Tensor | None:
    """Return what the positions are embedded as [position, width], but for their mean."""
    n, width = wpe.shape
    config = GPT2Config(n_positions=n, n_embd=width, n_layer=1, n_head=2)
    readers = torch.arange(FIRST_READER, FIRST_READER + width)
    made = blank(config) | {"wpe.weight": wpe}
    made["wte.weight"][readers] = torch.eye(width)
    for number, token in enumerate(TOKENS):
        made["wte.weight"][token, 2 * number : 2 * number + 2] = torch.tensor([LOUD, -LOUD])
    reading = Reading(subject, config, made, readers)
    found = reading.found(torch.tensor(TOKENS)[:, None].expand(-1, n))
    if found is None:
        return None
    given = torch.empty(0)

    class Given(CompleteGPT2):
        def embed_positions(self, positions: Tensor) -> Tensor:  # noqa: ARG002
            return given

    logits = reading.model(Given)

    def logits_of(numbers: Tensor) -> Tensor:
        nonlocal given
        given = numbers.repeat(1, 1, 2).view(-1, 1, width)  # each position is a text of its own
        token_ids = torch.tensor(TOKENS).repeat(len(given) // 2)[:, None]
        return logits(token_ids).view(*numbers.shape[:2], -1)

    return solved(found.transpose(0, 1).flatten(1), logits_of, width, alike=True)
