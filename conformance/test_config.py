"""Settings of a config.json beyond the sizes: they must be followed or refused, not ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .adapters.adapter import Adapter
from .adapters.refusal import may_refuse
from .checkpoints.tensors import SMALL, random_token_ids, trained_like
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, error, expected
from .outcomes import Failure
from .requirements import requirement

TOKEN_IDS = random_token_ids(SMALL, batch=2, time=7)


@requirement("config.attention-scaling")
@pytest.mark.parametrize(
    "fields",
    [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}],
    ids=["unscaled", "scaled-by-layer-too"],
)
def test_attention_scaling(
    adapter: Adapter, small: Path, fields: dict[str, Any], write: WriteCheckpoint
) -> None:
    adapter.load(small).logits(TOKEN_IDS)
    folder = write("-".join(["small", *fields]), SMALL, lambda: trained_like(SMALL, seed=0), fields)
    truth, allowed = expected(str(folder), TOKEN_IDS, adapter.precision, adapter.device)
    plain, _ = expected(str(small), TOKEN_IDS, adapter.precision, adapter.device)
    with may_refuse() as refusal:
        logits = adapter.load(folder).logits(TOKEN_IDS)
    if refusal:
        return
    if error(logits, plain).max() <= allowed:
        raise Failure(
            f"the config's {fields} is ignored: the logits are those of the plain "
            "1/sqrt(head width)"
        )
    check_logits(logits, truth, allowed, f"a config with {fields}")
