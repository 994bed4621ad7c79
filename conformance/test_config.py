"""What a config.json may ask for beyond the sizes: it is followed or refused, not read past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .adapters.adapter import Adapter
from .adapters.protocol import ProtocolError
from .checkpoints.tensors import SMALL, random_token_ids, trained_like
from .conftest import WriteCheckpoint
from .judging.oracle import check_logits, error, expected
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
    try:
        logits = adapter.load(folder).logits(TOKEN_IDS)
    except ProtocolError:
        raise
    except Exception:
        return  # refused
    if error(logits, plain).max() <= allowed:
        pytest.fail(
            f"the config's {fields} is read past: the logits are those of the plain 1/sqrt(head width)"
        )
    check_logits(logits, truth, allowed, f"a config with {fields}")
