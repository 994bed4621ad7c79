"""Settings of a config.json beyond the sizes: they must be followed or refused, not ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .adapters.adapter import Adapter
from .adapters.own_answers import own_answer
from .adapters.refusal import may_refuse
from .checkpoints.tensors import SMALL, random_token_ids, trained_like
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, error, expected
from .outcomes import Failure, NotApplicable
from .requirements import requirement

TOKEN_IDS = random_token_ids(SMALL, batch=2, time=7)


def check_not_ignored(
    adapter: Adapter, small: Path, write: WriteCheckpoint, fields: Mapping[str, Any], plain: str
) -> None:
    """Raise a Failure if the logits with these fields of a config are those without them.

    `plain`: what the logits without them have, in words.
    """
    __tracebackhide__ = True
    right = expected(str(small), TOKEN_IDS, adapter.precision, adapter.device)
    without, rounding = own_answer(adapter.load(small), TOKEN_IDS, right)
    name = "-".join(["small", *(f"{field}-{value}" for field, value in fields.items())])
    folder = write(name, SMALL, lambda: trained_like(SMALL, seed=0), fields)
    with may_refuse() as refusal:
        logits = adapter.load(folder).logits(TOKEN_IDS)
    if refusal:
        return
    truth, allowed = expected(str(folder), TOKEN_IDS, adapter.precision, adapter.device)
    if error(logits, without).max() <= rounding:
        if error(logits, truth).max() <= allowed:
            raise NotApplicable(f"in {adapter.precision} the config's {fields} changes too little")
        raise Failure(f"the config's {fields} is ignored: the logits are those of {plain}")
    # What an implementation whose plain logits are wrong makes of the fields can't be told.
    if error(without, right.logits).max() <= right.allowed:
        check_logits(logits, truth, allowed, f"a config with {fields}")


@requirement("config.attention-scaling")
@pytest.mark.parametrize(
    "fields",
    [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}],
    ids=["unscaled", "scaled-by-layer-too"],
)
def test_attention_scaling(
    adapter: Adapter, small: Path, fields: dict[str, Any], write: WriteCheckpoint
) -> None:
    check_not_ignored(adapter, small, write, fields, "the plain 1/sqrt(head width)")


@requirement("config.activation")
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_activation(adapter: Adapter, small: Path, activation: str, write: WriteCheckpoint) -> None:
    fields = {"activation_function": activation}
    check_not_ignored(adapter, small, write, fields, "gelu_new, which is GELU in its tanh form")


@requirement("config.epsilon")
def test_epsilon(adapter: Adapter, small: Path, write: WriteCheckpoint) -> None:
    # A residual stream has a variance of about 1, and a value of 1 is seen in every dtype.
    fields = {"layer_norm_epsilon": 1.0}
    check_not_ignored(adapter, small, write, fields, f"{SMALL.layer_norm_epsilon}")
