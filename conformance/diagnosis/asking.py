"""The ways to ask an implementation that has loaded a checkpoint: logits, pieces, weights, text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpt2ref import EOS

from ..adapters.protocol import Judged
from ..checkpoints.tensors import SMALL, random_token_ids

SMALLEST = replace(SMALL, n_layer=2, n_positions=13)
LONG = replace(SMALLEST, n_embd=24, n_layer=1, n_positions=1024)
ROWS = random_token_ids(SMALLEST, batch=17, time=5, seed=6)
IDS = random_token_ids(SMALLEST, batch=3, time=7, seed=5)
LONG_IDS = random_token_ids(LONG, batch=1, time=LONG.n_positions)
# The tokens whose logits are compared, as all logits would be too many.
SHOWN = torch.cat([torch.arange(0, EOS, 523), torch.tensor([EOS])])


@dataclass(frozen=True)
class Logits:
    """Logits that are compared, `centred`: [..., shown], less their mean at each position.

    A constant that is added to all is no mistake (see `oracle.error`). `largest`: the largest of
    the logits as they were given, in proportion to which they are rounded.
    """

    centred: Tensor
    largest: float


def numbers_of(answer: Any) -> Logits | None:
    """Return an answer in numbers; a plain tensor is compared as it is. None for any other."""
    if isinstance(answer, Tensor):
        return Logits(answer, float(answer.abs().max()) if answer.numel() else 0.0)
    return answer if isinstance(answer, Logits) else None


def shown(logits: Tensor) -> Logits:
    """Return the logits of SHOWN. A GPT-2 may have computed no others."""
    few = logits if logits.size(-1) == len(SHOWN) else logits[..., SHOWN]
    finite = few.where(few.isfinite(), torch.nan)
    mean = finite.nanmean(-1, keepdim=True).nan_to_num(nan=0.0)
    return Logits(few - mean, float(finite.nan_to_num(nan=0.0).abs().max()))


def logits(token_ids: Tensor, judged: Judged) -> Logits:
    return shown(judged.logits(token_ids))


def pieces(sizes: tuple[int, ...], judged: Judged, token_ids: Tensor = IDS) -> list[Logits]:
    first, *rest = token_ids[:, : sum(sizes)].split(list(sizes), dim=1)
    logits, cache = judged.prefill(first)
    answers = [shown(logits)]
    for piece in rest:
        logits, cache = judged.step(piece, cache)
        answers.append(shown(logits))
    return answers


def last_of_pieces(sizes: tuple[int, ...], judged: Judged) -> list[Logits]:
    """Return the logits of the last token of each piece of a long text."""
    first, *rest = LONG_IDS[:, : sum(sizes)].split(list(sizes), dim=1)
    logits, cache = judged.prefill(first)
    answers = [shown(logits[:, -1:])]
    for piece in rest:
        logits, cache = judged.step(piece, cache)
        answers.append(shown(logits[:, -1:]))
    return answers


def past_the_end(judged: Judged) -> Logits:
    _, cache = judged.prefill(random_token_ids(SMALLEST, 2, SMALLEST.n_positions))
    return shown(judged.step(IDS[:2, :1], cache)[0])


def branches(judged: Judged) -> list[Logits]:
    _, cache = judged.prefill(IDS[:, :2])
    return [shown(judged.step(ids, cache)[0]) for ids in (IDS[:, 2:4], IDS[:, 4:6], IDS[:, 2:4])]


def prompts_in_turn(judged: Judged) -> list[Logits]:
    answers = []
    for turn, batch in enumerate((1, 1, 3, 1)):
        first, second = IDS[:batch, 2 * turn : 2 * turn + 1], IDS[:batch, turn : turn + 1]
        logits, cache = judged.prefill(first)
        answers += [shown(logits), shown(judged.step(second, cache)[0])]
    same_end = IDS[:2, :3].clone()
    same_end[:, -1] = IDS[2, -1]
    return answers + [shown(judged.prefill(row[None])[0]) for row in same_end]


def after_a_step(judged: Judged) -> Logits:
    _, cache = judged.prefill(IDS[:, :3])
    judged.step(IDS[:, 3:4], cache)
    return logits(IDS, judged)


def weights(judged: Judged) -> list[Any]:
    return [
        shapes(judged),
        *(t.flatten()[::97].cpu().double() for _, t in sorted(judged.state_dict().items())),
    ]


def shapes(judged: Judged) -> list[Any]:
    return [
        (key.removeprefix("transformer."), list(t.shape))
        for key, t in sorted(judged.state_dict().items())
    ]


def twice(judged: Judged) -> bool:
    return torch.equal(judged.logits(IDS), judged.logits(IDS))


def encoded(text: str, judged: Judged) -> list[int]:
    return judged.encode(text)


def decoded(token_ids: list[int], judged: Judged) -> str:
    return judged.decode(token_ids)
