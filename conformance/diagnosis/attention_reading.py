"""Reads unknown attention weights, whatever else is known to be wrong beside them.

The value of each position is a channel of its own in each head, and every channel of the residual
stream has a reader (see `solving`), so the weights of each head are numbers that can be solved for.
With scores of zero they say what is added to each score. With a score of its own for each key, they
say what becomes of a score. A loud pair of channels makes the final LayerNorm nearly linear.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt2ref import GPT2Config

from ..checkpoints.tensors import Tensors, blank
from ..defects.complete import CompleteGPT2
from ..defects.curve import POINTS
from ..defects.read_attention import ReadAttention, causal
from .solving import FIRST_READER, Reading, Subject, solved

N_HEADS = (4, 2, 3)  # of the suite's checkpoints; a bias may depend on it
LENGTH = 40  # positions
HEAD_WIDTH = LENGTH + 2  # so that some channels are written by no head
LOUD, TOKEN = 300.0, 5
VALUE = 8.0  # what a weight of one adds to its channel
CELL = 1 / 8  # between the scores that are read
UNSEEN, NONE = 1e-11, 1e-7  # a weight that is taken for 0, and a difference
FAINT, CURVED = 1e-8, 1e-4  # a weight with too few digits, and more than the others are off


def read_attention(subject: Subject) -> ReadAttention | None:
    """Return what attention does, or None if it can't be read, or is right."""
    read = _biases(subject)
    if read is None:
        return None
    bias = read[f"bias.{N_HEADS[0]}"]
    points = _points(subject, bias[:, -1])
    if points is not None and (points[1] - points[0]).abs().max() > CURVED:
        read["x"], read["y"] = points
    right = causal(LENGTH).expand_as(bias)
    if "x" not in read and not read["sink"] and _alike(bias, right):
        return None
    file = subject.new_folder() / "attention.safetensors"
    save_file(read, file)
    return ReadAttention(file)


def _biases(subject: Subject) -> dict[str, Tensor] | None:
    """Return `bias.H` and `sink`, as `ReadAttention` has them."""
    read: dict[str, Tensor] = {}
    for n_head in N_HEADS:
        weights = _weights(subject, n_head)
        if weights is None:
            return None
        bias, sink = biased(weights[0])
        if not read and _alike(bias, bias[:1].expand_as(bias)):
            return {"sink": sink} | {f"bias.{each}": bias[:1].clone() for each in N_HEADS}
        read |= {"sink": sink, f"bias.{n_head}": bias.contiguous()}
    return read


def biased(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is added to scores, and to the sum of their exponentials.

    `weights`: those of scores of zero, float64 [head, query, key].
    """
    logs = weights.where(weights > UNSEEN, 0.0).log()
    rest = 1 - weights.sum(-1, keepdim=True)
    sink = bool((rest > NONE).all())
    bias = logs - (rest.log() if sink else logs.amax(-1, keepdim=True))
    return bias.where(bias.abs() > NONE, 0.0), torch.tensor(float(sink), dtype=torch.float64)


def _alike(bias: Tensor, other: Tensor) -> bool:
    return torch.allclose(bias, other, rtol=0, atol=NONE)


def _points(subject: Subject, bias: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return scores in ascending order, and what becomes of them, each float64 [score].

    `bias`: of the last query, [head or 1, key]. Its own key has the score 0. Returns None if it
    does not see that key, or can't be read.
    """
    n_head = N_HEADS[0]
    number = torch.arange(n_head * (LENGTH - 1)).view(n_head, -1)
    wanted = torch.zeros(n_head, LENGTH)
    wanted[:, :-1] = CELL * (number - number.numel() // 2)
    read = _weights(subject, n_head, wanted)
    if read is None:
        return None
    weights, scores = (each[:, -1].double() for each in read)
    became = weights.clamp(min=0).log() - bias
    became = became - became[:, -1:]
    seen = (weights > FAINT) & became.isfinite()
    seen[:, -1] = False
    x, order = scores[seen].sort()
    return (x, became[seen][order]) if len(x) >= POINTS else None


def _tensors(n_head: int, wanted: Tensor) -> Tensors:
    """Return the checkpoint, in which each key has the score `wanted` [head, key]."""
    config = _config(n_head)
    made, width = blank(config), config.n_embd
    made["wte.weight"][TOKEN, LENGTH : LENGTH + 2] = torch.tensor([LOUD, -LOUD])
    made["wte.weight"][FIRST_READER : FIRST_READER + width] = torch.eye(width)
    after_norm = (width / 4) ** 0.5  # a loud channel, of four
    c_attn, c_proj = made["h.0.attn.c_attn.weight"], made["h.0.attn.c_proj.weight"]
    codes = [channel for channel in range(width) if channel not in (LENGTH, LENGTH + 1)]
    for head in range(n_head):
        first = head * HEAD_WIDTH
        made["h.0.attn.c_attn.bias"][first] = HEAD_WIDTH**0.5
        for key in range(LENGTH):
            pair = codes[2 * key : 2 * key + 2]
            made["wpe.weight"][key, pair] = torch.tensor([LOUD, -LOUD])
            half = torch.tensor([0.5, -0.5]) / after_norm
            c_attn[pair, 2 * width + first + key] = half
            c_attn[pair, width + first] = half * wanted[head, key]
            c_proj[first + key, first + key] = VALUE
    return made


def _config(n_head: int) -> GPT2Config:
    return GPT2Config(n_positions=LENGTH, n_embd=n_head * HEAD_WIDTH, n_layer=1, n_head=n_head)


def _weights(
    subject: Subject, n_head: int, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Return the weights and the scores, each [head, query, key]; None if they can't be read."""
    config = _config(n_head)
    tensors = _tensors(n_head, torch.zeros(n_head, LENGTH) if wanted is None else wanted)
    readers = torch.arange(FIRST_READER, FIRST_READER + config.n_embd)
    reading = Reading(subject, config, tensors, readers)
    token_ids = torch.full((1, LENGTH), TOKEN)
    found = reading.found(token_ids)
    if found is None:
        return None
    given, scores = torch.empty(0), torch.empty(0)

    class Given(CompleteGPT2):
        def attention_weights(self, found: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002
            nonlocal scores
            scores = found[0]
            return given

    logits = reading.model(Given)

    def logits_of(numbers: Tensor) -> Tensor:
        nonlocal given
        given = numbers.unflatten(-1, (n_head, LENGTH)).transpose(1, 2)
        return logits(token_ids.expand(len(numbers), -1))

    read = solved(found[0], logits_of, n_head * LENGTH)
    if read is None:
        return None
    return read.unflatten(-1, (n_head, LENGTH)).transpose(0, 1), scores
