"""The ways to ask an implementation that has loaded a checkpoint: logits, pieces, tokens, text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpt2ref import EOS

from ..adapters.protocol import Judged
from ..checkpoints.tensors import SMALL, random_token_ids

SMALLEST = replace(SMALL, n_layer=2, n_positions=13)
LONG = replace(SMALLEST, n_layer=1, n_positions=530)
IDS = random_token_ids(SMALLEST, batch=3, time=7, seed=5)
DRAWS = 16, 32  # rows and steps of one draw
ENDED = -1  # in the place of a token after a row's end
# The tokens whose logits are compared, as all logits would be too many.
SHOWN = torch.cat([torch.arange(0, EOS, 523), torch.tensor([EOS])])


class Frequencies(Counter[int]):
    """How often each token was drawn."""


def shown(logits: Tensor) -> Tensor:
    """Return the logits that are compared, [..., shown]. A GPT-2 may have computed no others."""
    return logits if logits.size(-1) == len(SHOWN) else logits[..., SHOWN]


def logits(token_ids: Tensor, judged: Judged) -> Tensor:
    return shown(judged.logits(token_ids))


def pieces(sizes: tuple[int, ...], judged: Judged) -> list[Tensor]:
    first, *rest = IDS[:, : sum(sizes)].split(list(sizes), dim=1)
    logits, cache = judged.prefill(first)
    answers = [shown(logits)]
    for piece in rest:
        logits, cache = judged.step(piece, cache)
        answers.append(shown(logits))
    return answers


def long_pieces(judged: Judged) -> list[Tensor]:
    """Return the logits of a long prompt, and those of steps over the ends of blocks."""
    token_ids = random_token_ids(LONG, 1, LONG.n_positions)
    answers = [shown(judged.prefill(token_ids)[0][:, -1:])]
    sizes = [63, 1, 1, 62, 1, 1, 382, 1, 1, LONG.n_positions - 513]
    first, *rest = token_ids.split(sizes, dim=1)
    _, cache = judged.prefill(first)
    for piece in rest:
        logits, cache = judged.step(piece, cache)
        answers.append(shown(logits[:, -1:]))
    return answers


def past_the_end(judged: Judged) -> Tensor:
    _, cache = judged.prefill(random_token_ids(SMALLEST, 2, SMALLEST.n_positions))
    return shown(judged.step(IDS[:2, :1], cache)[0])


def branches(judged: Judged) -> list[Tensor]:
    _, cache = judged.prefill(IDS[:, :2])
    return [shown(judged.step(ids, cache)[0]) for ids in (IDS[:, 2:4], IDS[:, 4:6], IDS[:, 2:4])]


def prompts_in_turn(judged: Judged) -> list[Tensor]:
    answers = []
    for turn, batch in enumerate((1, 1, 3, 1)):
        first, second = IDS[:batch, 2 * turn : 2 * turn + 1], IDS[:batch, turn : turn + 1]
        logits, cache = judged.prefill(first)
        answers += [shown(logits), shown(judged.step(second, cache)[0])]
    return answers


def after_a_step(judged: Judged) -> Tensor:
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


def new(prompts: Tensor, n: int, judged: Judged, **options: Any) -> list[list[int]]:
    return judged.generate(prompts, max_new_tokens=n, **{"temperature": 0.0, "seed": 7} | options)


def greedy(prompts: Tensor, n: int, judged: Judged, **options: Any) -> Any:
    return _whatever_the_seed(lambda seed: new(prompts, n, judged, seed=seed, **options))


def ragged(prompts: list[list[int]], judged: Judged) -> Any:
    options = {"max_new_tokens": 4, "temperature": 0.0}
    return _whatever_the_seed(lambda seed: judged.generate_ragged(prompts, seed=seed, **options))


def _whatever_the_seed(generate: Callable[[int], list[list[int]]]) -> Any:
    """Return the tokens, or "several" if chance decides, as another generator has others."""
    rows = generate(7)
    return rows if generate(8) == rows else "several"


def draws(judged: Judged, top_k: int | None) -> bool:
    """Return whether anything is drawn."""
    return bool(
        judged.generate(torch.full((2, 1), 5), max_new_tokens=2, temperature=5.0, top_k=top_k)
    )


def drawn(judged: Judged, **options: Any) -> Frequencies:
    rows = judged.generate(torch.full((DRAWS[0], 1), 5), max_new_tokens=DRAWS[1], **options)
    frequencies = Frequencies(token for row in rows for token in row)
    # Chance decides when a row ends, so what follows its end is counted, too.
    frequencies[ENDED] += DRAWS[0] * DRAWS[1] - frequencies.total()
    return frequencies


def largest(judged: Judged, *prompts: int) -> list[Any]:
    """Return the token that each prompt of one token is followed by, with top_k=1.

    It is "several" where chance decides: where two tokens are left, or all logits are equal. Other
    random numbers then give other tokens.
    """
    rows = torch.tensor(prompts).repeat_interleave(12)[:, None]
    new = judged.generate(rows, max_new_tokens=1, temperature=5.0, top_k=1)
    groups = (new[start : start + 12] for start in range(0, len(new), 12))
    return [each[0] if all(row == each[0] for row in each) else "several" for each in groups]


def seeds(judged: Judged) -> list[bool]:
    def draw(seed: int) -> list[list[int]]:
        return judged.generate(torch.full((4, 1), 5), max_new_tokens=8, temperature=1.0, seed=seed)

    before = torch.get_rng_state()
    first = draw(11)
    moved = not torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    rows_alike, steps_alike = (
        all(row == first[0] for row in first),
        all(len(set(row)) == 1 for row in first),
    )
    return [moved, draw(11) == first, draw(12) == first, rows_alike, steps_alike]


def trace(judged: Judged) -> bool:
    """Return whether logits are bit by bit the same after a call of generate."""
    before = judged.logits(IDS)
    judged.generate(IDS, max_new_tokens=3, temperature=1.0)
    return torch.equal(judged.logits(IDS), before)


def twice(judged: Judged) -> bool:
    return torch.equal(judged.logits(IDS), judged.logits(IDS))


def encoded(text: str, judged: Judged) -> list[int]:
    return judged.encode(text)


def decoded(token_ids: list[int], judged: Judged) -> str:
    return judged.decode(token_ids)
