"""Many threads generate with one model, and streams are dropped before their end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2ref import GPT2, KVCache, generate, load_checkpoint, sample, stream

THREADS = 8


def text(model: GPT2, seed: int) -> str:
    """Generate a text. Seeds vary streaming, temperature, top_k, and lengths around the context."""
    options: dict[str, Any] = {
        "max_new_tokens": 10 + 2 * seed,
        "temperature": seed % 4 / 2,
        "top_k": (None, 5)[seed % 2],
        "seed": seed,
    }
    prompt = "The dog " * (seed % 5)
    return (
        "".join(stream(prompt, model, **options))
        if seed % 3 == 0
        else generate(prompt, model, **options)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_thread_gets_what_it_gets_alone(folder: Path, dtype: torch.dtype) -> None:
    alone = [text(load_checkpoint(folder, dtype=dtype), seed) for seed in range(2 * THREADS)]
    assert len(set(alone)) > THREADS
    model = load_checkpoint(folder, dtype=dtype)
    together = threading.Barrier(THREADS)

    def run(seed: int) -> str:
        together.wait(timeout=60)
        return text(model, seed)

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(run, range(2 * THREADS))) == alone


def test_streams_read_in_turns_in_one_thread_do_not_mix(folder: Path) -> None:
    model = load_checkpoint(folder)
    alone = [list(stream("A", model, max_new_tokens=30, seed=seed)) for seed in range(3)]
    streams = [stream("A", model, max_new_tokens=30, seed=seed) for seed in range(3)]
    mixed: list[list[str]] = [[], [], []]
    for place in range(max(map(len, alone))):
        for number, pieces in enumerate(streams):
            mixed[number] += [next(pieces)] if place < len(alone[number]) else []
    assert mixed == alone


def caches() -> set[int]:
    """Return the ids of all caches of the process: other tests may have left some."""
    return {id(each) for each in gc.get_objects() if type(each) is KVCache}


def test_an_abandoned_stream_leaves_nothing_behind(folder: Path) -> None:
    model, before = load_checkpoint(folder), caches()
    gone, threads = weakref.ref(model), threading.active_count()
    for _ in range(20):
        next(stream("The dog", model, max_new_tokens=1000, seed=0))
    closed = stream("The dog", model, max_new_tokens=1000, seed=0)
    next(closed)
    assert isinstance(closed, Generator)
    closed.close()
    assert caches() <= before, "without a collection"
    assert threading.active_count() == threads
    assert torch.is_inference_mode_enabled() is False
    assert torch.is_grad_enabled()
    assert sample(model, [[1]], max_new_tokens=3, seed=0)
    del model, closed
    gc.collect()
    assert gone() is None


def test_a_stream_may_be_dropped_in_another_thread(folder: Path) -> None:
    model, before = load_checkpoint(folder), caches()
    pieces = [stream("The dog", model, max_new_tokens=1000, seed=0)]
    next(pieces[0])
    dropping = threading.Thread(target=pieces.clear)
    dropping.start()
    dropping.join()
    assert caches() <= before
    with torch.enable_grad():
        assert (torch.ones(1, requires_grad=True) * 2).requires_grad
