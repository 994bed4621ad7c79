"""Engines that cheat gain nothing, or their rows are invalid with a reason that names the cause."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks.run
import benchmarks.weights
from benchmarks.implementations import TokenIds
from benchmarks.implementations.gpt2ref import Reference
from benchmarks.limits import Bandwidth
from benchmarks.plan import random_prompts
from benchmarks.report import markdown
from benchmarks.results import read
from benchmarks.run import Run
from benchmarks.seeds import UnseenSeeds
from benchmarks.speeds_page import page, picture
from benchmarks.summary import summary
from tests.shared.benchmark_fakes import plan
from tests.shared.benchmark_results import ENVIRONMENT, a_result, written
from tests.shared.planted_engines import (
    TRICKS,
    KeepsCacheByShape,
    RemembersAnswer,
    ReportsAtEnd,
)

LIMIT = Bandwidth(50e9, "sum")  # more than an honest loop reads at this size, on any processor
Rows = dict[str, dict[str, Any]]
Measure = Callable[..., Rows]


@pytest.fixture
def rows_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Measure]:
    """Measure engines in one cell, beside the honest one. Return the row of each by its name."""
    runs: list[Run] = []
    monkeypatch.setattr(benchmarks.run, "measure_bandwidth", lambda *_, **__: LIMIT)

    def measure(*engines: type[Reference], temperature: str = "0") -> Rows:
        # The command line accepts known names only, so the engines take these in turn.
        names = ["gpt2ref", "huggingface", "gpt2ref-textbook"][: 1 + len(engines)]
        classes: dict[str, type[Reference]] = dict(zip(names, (Reference, *engines), strict=True))
        monkeypatch.setattr(benchmarks.weights, "implementation_class", classes.__getitem__)
        asked = plan(
            size=["tiny"],
            temperature=[temperature],
            top_k=["none"],
            implementation=[",".join(names)],
        )
        run = Run(asked, dict(ENVIRONMENT), lambda _line: None)
        runs.append(run)
        outcomes = {name: run.outcome(asked.cells[0], name) for name in names}
        for name, engine in classes.items():
            assert outcomes[name].error is None, engine.__name__
        return {classes[name].__name__: outcomes[name].result or {} for name in names}

    yield measure
    for run in runs:
        run.finish()


@pytest.mark.parametrize("engine", TRICKS, ids=[engine.__name__ for engine in TRICKS])
def test_an_engine_that_cheats_is_invalid_by_its_name(
    engine: type[Reference], rows_of: Measure
) -> None:
    rows = rows_of(engine)
    row = rows[engine.__name__]
    assert not row["valid"]
    assert re.search(TRICKS[engine], row["reason"]), row["reason"]
    assert "\n" not in row["reason"]
    assert rows["Reference"]["valid"], rows["Reference"]["reason"]


def test_a_kept_cache_is_named_in_sampled_rows_too(rows_of: Measure) -> None:
    engines: list[type[Reference]] = [RemembersAnswer, KeepsCacheByShape]
    rows = rows_of(*engines, temperature="1")
    for engine in engines:
        row = rows[engine.__name__]
        assert not row["valid"]
        assert re.match("round 1: .* the warm-up.*: a kept", row["reason"]), row["reason"]


def test_no_prompt_shares_its_first_token_or_its_seed_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over all rounds, rows of a batch, cells and engines: so no prefix or answer can be kept."""
    monkeypatch.setattr(benchmarks.run, "measure_bandwidth", lambda *_, **__: LIMIT)
    begun: list[int] = []
    seeds: list[int] = []

    class Records(Reference):
        def generate(self, prompts: TokenIds, *setting: Any, seed: int, **more: Any) -> TokenIds:
            begun.extend(row[0] for row in prompts)
            seeds.extend(seed + number for number in range(len(prompts)))
            return super().generate(prompts, *setting, seed=seed, **more)

    monkeypatch.setattr(benchmarks.weights, "implementation_class", lambda _name: Records)
    asked = plan(
        size=["tiny"],
        batch=["1,3"],
        temperature=["0,1"],
        top_k=["none,40"],
        new_tokens="2",
        implementation=["gpt2ref,huggingface"],
    )
    run = Run(asked, dict(ENVIRONMENT), lambda _line: None)
    for cell in asked.cells:
        for name in asked.implementations:
            assert run.outcome(cell, name).error is None
    run.finish()
    rows = (1 + 3) * 4 * 2 * (1 + asked.rounds)
    assert len(set(begun)) == len(begun) == rows
    assert len(set(seeds)) == len(seeds) == rows


def test_rows_differ_when_no_first_token_is_left() -> None:
    seeds = UnseenSeeds()
    drawn = [seeds.draw(vocab_size=7, batch=3) for _ in range(6)]
    assert len({seed + row for seed in drawn for row in range(3)}) == 18
    prompts = [row for seed in drawn for row in random_prompts(7, 3, prompt_length=20, seed=seed)]
    assert len({tuple(row) for row in prompts}) == 18
    assert random_prompts(7, 3, 20, drawn[0]) == prompts[:3]  # a seed gives its prompts again
    assert len({row[0] for row in prompts[:3]}) == 3


def test_an_invalid_row_has_no_figures_anywhere(rows_of: Measure, tmp_path: Path) -> None:
    """Neither in tables nor in charts, and nothing is compared with it."""
    rows = rows_of(ReportsAtEnd)
    honest, cheat = rows["Reference"], rows["ReportsAtEnd"]  # under the name of huggingface
    assert cheat["bandwidth_percent"] > 110
    assert honest["ratio_to_huggingface"] is cheat["ratio_to_huggingface"] is None
    for row in rows.values():
        row["peak_memory_bytes"] = None
    line = next(line for line in summary([honest, cheat]) if " huggingface " in line)
    assert line.split()[3:] == ["-"] * 7 + ["NO"]
    results = read(written(tmp_path, honest, cheat))
    report = markdown(results)
    for made in (report, page(results), picture(results)):
        assert "invalid" in made.lower()
        assert f"{cheat['decode_tokens_per_second']:,.0f}" not in made
    assert cheat["reason"].split(",")[0] in report


@pytest.mark.parametrize(
    "fields",
    [
        {"bandwidth_percent": 175_111.0},
        {"bandwidth_percent": 110.5},
        {"bandwidth_percent": 80.0, "ceiling_tokens_per_second": 50.0},
    ],
)
def test_a_row_of_an_older_file_above_the_limit_is_not_ranked(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    fast, right = a_result("fast", **fields), a_result(bandwidth_percent=109.5)
    first, second = read(written(tmp_path, fast, right))
    assert (first.valid, second.valid) == (False, True)
    assert re.fullmatch(
        r"(175,111|110|200)% of the measured bandwidth: expected at most 110%",
        first.fields["reason"],
    )
    assert json.dumps(first.fields)
    assert "INVALID: fast" in markdown([first, second])
