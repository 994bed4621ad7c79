"""An implementation's own answers, as the truth of what it only has to repeat.

A cache, a second file and a generation loop can be right where the logits are wrong. So they are
compared with the implementation's own logits. Those are compared with GPT-2's elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gpt2ref import EOS

from ..judging.oracle import Expected
from ..outcomes import Failure, NotApplicable
from .protocol import Judged


def own_answer(judged: Judged, token_ids: Tensor, right: Expected) -> Expected:
    """Return the implementation's own logits, and by how much another answer of it may differ.

    `right` is GPT-2's answer. Two answers may be off by the allowed error each, and a wrong GPT-2
    whose logits are larger rounds them more coarsely.
    """
    logits = judged.logits(token_ids)
    larger = float(logits.abs().max()) / max(float(right.logits.abs().max()), 1e-30)
    return Expected(logits, 2 * right.allowed * max(1.0, larger))


def check_new_tokens(
    judged: Judged,
    prompt: Sequence[int],
    found: Sequence[int],
    wanted: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    where: str = "",
) -> None:
    """Raise a Failure unless the new tokens are those that a checkpoint makes a GPT-2 say.

    An implementation whose own logits say other tokens must generate those. A sampler may have a
    choice under such logits, and must not choose what has no chance.
    """
    __tracebackhide__ = True
    if list(found) == list(wanted) or (
        not says(judged, prompt, wanted, max_new_tokens, 0.0)
        and says(judged, prompt, found, max_new_tokens, temperature)
    ):
        return
    raise Failure(f"new tokens {list(found)}{where}", expected=f"{list(wanted)}")


def check_die(judged: Judged, faces: Mapping[int, float], token_id: int) -> None:
    """Raise NotApplicable unless the implementation's own logits are those of a die.

    A sampler is judged by draws from known logits. Whether the logits are right is another
    question.
    """
    logits, tokens = judged.logits(torch.tensor([[token_id]]))[0, -1], list(faces)
    wanted = torch.tensor(list(faces.values()), dtype=torch.float64)
    found, others = logits[tokens], logits.index_fill(-1, torch.tensor(tokens), -math.inf)
    rounding = max(1.0, float(found.abs().max())) / 64  # of bfloat16, with room
    off = (found - found.max()) - (wanted - wanted.max())
    if not (off.abs().max() <= rounding and others.max() < found.max() - 30):
        raise NotApplicable("its logits of this checkpoint are not GPT-2's, so no draw is known")


def says(
    judged: Judged,
    prompt: Sequence[int],
    new: Sequence[int],
    max_new_tokens: int,
    temperature: float,
) -> bool:
    """Return whether the implementation's own logits allow these new tokens.

    At temperature 0 each must have the largest logit, and at another one a chance above e^-30.
    After fewer than `max_new_tokens`, this holds for EOS.
    """
    said = [*new, EOS][:max_new_tokens]
    if not said or len(new) > max_new_tokens:
        return len(new) == max_new_tokens
    sequence = torch.tensor([[*prompt, *said]])
    logits = judged.logits(sequence[:, :-1])[0, len(prompt) - 1 :]
    chosen = logits.gather(-1, torch.tensor(said)[:, None])[:, 0]
    largest = logits.amax(-1)
    rounding = 1e-4 * largest.abs()
    return bool((chosen >= largest - rounding - 30 * temperature).all())
