"""Benchmark results read back and compared. No result is measured: all are made up."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import FASTER, NO_DIFFERENCE, SLOWER, compare
from benchmarks.report import main, markdown
from benchmarks.results import ResultsError, Shape, read
from benchmarks.sampling import Sampling
from benchmarks.speeds_page import page
from tests.shared.benchmark_results import a_result, an_invalid_result, written


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    first, *_, broken = read(
        written(tmp_path, a_result(batch=2, top_k=40, temperature=1), an_invalid_result())
    )
    assert first.rates == pytest.approx((90.0, 100.0, 110.0))
    assert first.tokens_per_second == 100.0
    assert first.shape == Shape("gpt2", "float32", 2, 32, 4)
    assert first.sampling == Sampling(1.0, 40)
    assert first.number("ms_per_token", "p95") == 11.0
    assert first.number("peak_memory_bytes") is None
    assert first.number("implementation") is None
    assert broken.rates == ()


NEAR = [
    ((90.0, 100.0, 110.0), (60.0, 70.0, 89.0), FASTER),
    ((90.0, 100.0, 110.0), (60.0, 70.0, 90.0), NO_DIFFERENCE),  # touching is no difference
    ((90.0, 100.0, 110.0), (105.0, 150.0, 160.0), NO_DIFFERENCE),
    ((90.0, 100.0, 110.0), (111.0, 150.0, 160.0), SLOWER),
    ((90.0,), (10.0, 11.0), NO_DIFFERENCE),  # one round shows nothing
]


@pytest.mark.parametrize(("new", "old", "finding"), NEAR)
def test_a_difference_is_shown_where_no_rounds_overlap(
    tmp_path: Path, new: tuple[float, ...], old: tuple[float, ...], finding: str
) -> None:
    ours, theirs = (
        read(written(tmp_path, a_result(rates=new))),
        read(written(tmp_path, a_result(rates=old))),
    )
    (pair,) = compare(ours, theirs).pairs
    assert pair.finding == finding
    assert pair.ratio == ours[0].tokens_per_second / theirs[0].tokens_per_second
    assert f"| {finding} " in markdown(ours, compare(ours, theirs))


def test_the_probability_of_a_chance_finding_is_shown(tmp_path: Path) -> None:
    results = read(written(tmp_path, a_result()))
    comparison = compare(results, results)
    assert comparison.pairs[0].chance == 2 / math.comb(6, 3)
    assert "up to 0.1 of the results" in comparison.legend
    single = read(written(tmp_path, a_result(rates=(5.0,))))
    assert "One round shows no difference" in compare(single, single).legend


def test_results_are_matched_by_every_setting(tmp_path: Path) -> None:
    varied: dict[str, Any] = {
        "size": "tiny",
        "batch": 2,
        "prompt_length": 8,
        "new_tokens": 9,
        "temperature": 1.0,
        "top_k": 7,
    }
    made = [
        a_result(),
        *(a_result(**{name: value}) for name, value in varied.items()),
        a_result("huggingface"),
    ]
    new = read(written(tmp_path, *made))
    for left_out in range(len(made)):
        others = made[:left_out] + made[left_out + 1 :]
        comparison = compare(new, read(written(tmp_path, *others)))
        assert len(comparison.pairs) == len(others)
        assert comparison.unmatched == [(new[left_out], "not in the baseline")]


def test_results_that_cannot_be_compared_are_listed(tmp_path: Path) -> None:
    new = read(
        written(tmp_path, a_result(), an_invalid_result("gpt2ref", batch=2), a_result(batch=3))
    )
    old = read(
        written(
            tmp_path, a_result(batch=2), an_invalid_result("gpt2ref", batch=3), a_result(batch=4)
        )
    )
    comparison = compare(new, old)
    assert comparison.pairs == []
    reasons = [
        "not in the baseline",
        "invalid here",
        "invalid in the baseline",
        "only in the baseline",
    ]
    assert [why for _, why in comparison.unmatched] == reasons
    assert all(why in markdown(new, comparison) and why in page(new, comparison) for why in reasons)


@pytest.mark.parametrize(
    "name", ["device", "device_name", "threads", "dtype", "torch", "transformers", "python"]
)
def test_other_conditions_are_not_compared(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = 3 if name == "threads" else "another"
    out, base = (
        written(tmp_path, a_result()),
        written(tmp_path, a_result() | {name: other}, name="base.json"),
    )
    output = tmp_path / "report.md"
    assert main([str(out), str(base), "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert re.search(
        rf"not comparable: {name} is '.*{a_result()[name]}' here and '{other}' in the baseline\n$",
        error,
    )
    assert not output.exists()


@pytest.mark.parametrize("name", ["gpt2ref", "commit", "platform"])
def test_versions_of_gpt2ref_may_differ(tmp_path: Path, name: str) -> None:
    out, base = (
        written(tmp_path, a_result()),
        written(tmp_path, a_result() | {name: "b" * 40}, name="base.json"),
    )
    assert main([str(out), str(base), "-o", str(tmp_path / "report.md")]) == 0


def test_an_older_file_without_the_new_fields_is_read(tmp_path: Path) -> None:
    older = a_result()
    for name in (
        "commit",
        "dirty",
        "cuda",
        "driver",
        "platform",
        "decode_spread",
        "ms_per_token",
        "prefill_seconds",
        "warmup",
    ):
        del older[name]
    results = read(written(tmp_path, older))
    assert "unknown" in page(results, compare(results, results))
    assert "| gpt2ref " in markdown(results)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in a_result().items() if key != name}


NO_RESULTS = {
    "not JSON": ("", "not JSON"),
    "another encoding": (b"\xff\xfe", "not JSON"),
    "a list": ("[]", "not written by pytest --benchmark-json"),
    "another object": ('{"benchmarks": []}', "not written by pytest --benchmark-json"),
    "no results": ('{"version": "5.3.1", "benchmarks": []}', "no results"),
    "a future format": (
        '{"version": "6.0.0", "benchmarks": [{}]}',
        "pytest-benchmark '6.0.0': expected 5 at most",
    ),
    "no version": ('{"version": "x", "benchmarks": [{}]}', "pytest-benchmark 'x'"),
    "no fields": ('{"version": "5.3.1", "benchmarks": [{}]}', "benchmark 1: no result"),
    "another benchmark's fields": (
        '{"version": "5.3.1", "benchmarks": [{"extra_info": {}}]}',
        "no field implementation",
    ),
}
BAD_FIELDS = [
    (without("threads"), "no field threads: expected an integer of at least 1"),
    (without("samples"), "no field samples"),
    (a_result() | {"batch": "1"}, "batch is '1'"),
    (a_result() | {"batch": True}, "batch is True"),
    (a_result(top_k=0), "top_k is 0: expected an integer of at least 1 or null"),
    (a_result(temperature=math.nan), "temperature is nan"),
    (a_result(valid=None), "valid is None"),
    (
        a_result(decode_tokens_per_second=None),
        "decode_tokens_per_second is None: expected a number above 0",
    ),
    (a_result(decode_tokens_per_second=10**400), "too large"),
    (a_result(samples=[]), "samples is []"),
    (a_result(samples=[{}]), "decode_seconds None"),
    (a_result(samples=[{"decode_seconds": []}]), r"decode_seconds []"),
    (a_result(samples=[{"decode_seconds": [-1.0]}]), r"decode_seconds [-1.0]"),
    (a_result() | {"implementation": ["x" * 1000]}, "..."),
]


def refused(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error, which must be one line."""
    outputs = [folder / "report.md", folder / "report.html"]
    assert main([str(path), "-o", str(outputs[0]), "--html", str(outputs[1])]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{path}: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 400
    assert not any(output.exists() for output in outputs)
    return captured.err


@pytest.mark.parametrize(("content", "message"), NO_RESULTS.values(), ids=NO_RESULTS)
def test_a_file_that_has_no_results_is_named(
    tmp_path: Path, content: str | bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(path, tmp_path, capsys)


@pytest.mark.parametrize(("bad", "message"), BAD_FIELDS, ids=[message for _, message in BAD_FIELDS])
def test_a_field_that_is_wrong_is_named(
    tmp_path: Path, bad: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(written(tmp_path, a_result("another"), bad), tmp_path, capsys)


def test_no_such_file_and_a_result_twice_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No such file" in refused(tmp_path / "missing.json", tmp_path, capsys)
    assert "two results for gpt2ref, gpt2" in refused(
        written(tmp_path, a_result(), a_result()), tmp_path, capsys
    )
    with pytest.raises(ResultsError):
        read(tmp_path)


def test_an_invalid_result_need_not_have_figures(tmp_path: Path) -> None:
    broken = {
        key: value
        for key, value in an_invalid_result().items()
        if key not in ("samples", "decode_tokens_per_second")
    }
    results = read(written(tmp_path, broken))
    assert "INVALID" in page(results)
    assert "INVALID" in markdown(results)
