"""Patches of the cache: positions of a step, and whose keys and values it continues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .parts import Patch, check_length

CHUNK = 512


def seen(cache: Any) -> int:
    """Return the number of tokens in a cache; none without one."""
    return 0 if cache is None else int(cache.get_seq_length())


def positions_of_steps(
    change: Callable[[Tensor, int, int], Tensor], *, checked: bool = True
) -> Patch:
    """Return a patch that changes the positions of a step: (positions, past, n_positions).

    `checked`: a step past the last position is refused, as before.
    """

    def placed(transformer: Any, given: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        past = seen(options.get("cache", options.get("past_key_values")))
        if not past:
            return None
        time, positions = given[0].size(1), options.get("position_ids")
        if positions is None:
            positions = torch.arange(past, past + time)[None]
        rows = transformer.wpe.num_embeddings
        if checked:
            check_length(past + time, rows)
        return given, options | {"position_ids": change(positions, past, rows)}

    def patch(adapter: Any) -> None:
        adapter.model.transformer.register_forward_pre_hook(placed, with_kwargs=True)

    return patch


def padding_counted(adapter: Any) -> None:
    """Count positions from the first column, padding or not."""

    def placed(_: Any, given: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        return given, options | {"position_ids": None}

    adapter.model.transformer.register_forward_pre_hook(placed, with_kwargs=True)


def branches_aliased(adapter: Any) -> None:
    """Extend a cache in place, as transformers does without the adapter's copy."""

    @torch.inference_mode()
    def step(token_ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        output = adapter.model(token_ids, past_key_values=cache, use_cache=True)
        return output.logits, output.past_key_values

    adapter.step = step


def cache_kept(adapter: Any) -> None:
    """Keep the cache on the model: a prompt of as many rows continues the one before."""
    step, kept = adapter.step, list[Any]()

    def stepped(token_ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        logits, new = step(token_ids, cache)
        kept[:] = [new]
        return logits, new

    def prefill(token_ids: Tensor) -> tuple[Tensor, Any]:
        for cache in kept:
            room = adapter.model.config.n_positions - seen(cache)
            if len(cache.layers[0].keys) == len(token_ids) and token_ids.size(1) <= room:
                return stepped(token_ids, cache)
        return stepped(token_ids, None)

    adapter.step, adapter.prefill = stepped, prefill


def found_by_last_token(adapter: Any) -> None:
    """Find a prompt's cache by its shape and the last token of each row."""
    prefill, kept = adapter.prefill, dict[Any, tuple[Tensor, Any]]()

    def found(token_ids: Tensor) -> tuple[Tensor, Any]:
        key = token_ids.shape, tuple(token_ids[:, -1].tolist())
        if key not in kept:
            kept[key] = prefill(token_ids)
        return kept[key]

    adapter.prefill = found


def prefill_in_chunks(*, restart: bool) -> Patch:
    """Return a patch that feeds a long prompt in chunks.

    The positions of each chunk start at 0 again, or each chunk has a new cache.
    """

    def patch(adapter: Any) -> None:
        @torch.inference_mode()
        def prefill(token_ids: Tensor) -> tuple[Tensor, Any]:
            cache, pieces = None, []
            for piece in token_ids.split(CHUNK, dim=1):
                positions = torch.arange(piece.size(1))[None] + (0 if restart else seen(cache))
                output = adapter.model(
                    piece, past_key_values=cache, position_ids=positions, use_cache=True
                )
                cache = output.past_key_values
                pieces.append(output.logits)
            return torch.cat(pieces, dim=1), cache

        adapter.prefill = prefill

    return patch


PATCHES: dict[str, Patch] = {
    "position-not-offset": positions_of_steps(
        lambda positions, _, __: torch.arange(positions.size(1))[None]
    ),
    "offset-advances-wrong": positions_of_steps(
        lambda positions, past, rows: (positions + past) % rows
    ),
    "step-positions-in-bfloat16": positions_of_steps(
        lambda positions, _, rows: positions.bfloat16().long().clamp(max=rows - 1)
    ),
    "step-past-the-end-clamped": positions_of_steps(
        lambda positions, _, rows: positions.clamp(max=rows - 1), checked=False
    ),
    "step-past-the-end-wraps": positions_of_steps(
        lambda positions, _, rows: positions % rows, checked=False
    ),
    "left-pad-positions": padding_counted,
    "cache-aliased-branches": branches_aliased,
    "cache-not-reset": cache_kept,
    "prefill-found-by-last-token": found_by_last_token,
    "prefill-chunks-restart": prefill_in_chunks(restart=True),
}
