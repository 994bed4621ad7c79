"""The study of usual tests, on defects for which it is known whether these tests catch them."""

from __future__ import annotations

import pytest

from conformance.defects import DEFECTS, CompleteGPT2
from conformance.studies.practice import CHECKS, Results, found, ground, measure, table

FRESH = ("a", "b", "c", "d")
KNOWN = [
    "gelu-erf",
    "no-ln-f",
    "biases-missing",
    "position-not-offset",
    "temperature-zero-crash",
    "mask-minus-10000",
]


@pytest.fixture(scope="module")
def results() -> Results:
    """`measure` stops if a right GPT-2 fails a check."""
    return measure(KNOWN)


def caught(results: Results, defect: str) -> set[str]:
    return {check for check, reason in results[defect].items() if reason}


def test_exact_gelu_is_missed_on_fresh_weights(results: Results) -> None:
    assert caught(results, "gelu-erf") == {"a2", "b2"}


def test_a_missing_final_norm_is_caught_by_one_comparison(results: Results) -> None:
    assert results["no-ln-f"]["a"] == "allclose_4"
    assert "d" not in caught(results, "no-ln-f")  # which holds it against itself


def test_missing_biases_are_missed_on_fresh_weights(results: Results) -> None:
    assert caught(results, "biases-missing") == {"a2", "b2", "c2"}


def test_a_wrong_cache_is_caught_only_by_checks_that_use_it(results: Results) -> None:
    assert results["position-not-offset"]["d"] == "model_past"
    assert not caught(results, "position-not-offset") & {"a", "b", "a2", "b2"}


def test_an_exception_is_reported(results: Results) -> None:
    assert str(results["temperature-zero-crash"]["c"]).startswith(
        "greedy_text: RuntimeError: probability tensor"
    )


def test_a_harmless_change_passes(results: Results) -> None:
    assert caught(results, "mask-minus-10000") == set()


def test_the_table_counts(results: Results) -> None:
    lines = table(results).splitlines()
    assert lines[0].split() == [
        "caught",
        *dict.fromkeys(DEFECTS[name].family for name in KNOWN[:-1]),
        "false",
        "alarms",
    ]
    counts = "1 of 5 20% 0 of 1 1 of 1 0 of 1 0 of 1 0 of 1 0 of 1"  # all, families, false alarms
    assert " ".join(lines[1].split()) == f"a allclose, 1e-4 {counts}"
    assert (
        "a misses: gelu-erf, biases-missing, position-not-offset, temperature-zero-crash" in lines
    )


@pytest.mark.parametrize("check", FRESH)
def test_nothing_is_counted_if_a_right_implementation_fails(
    monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    def impossible(_load: object, _on: object) -> bool:
        return False

    monkeypatch.setitem(CHECKS, check, CHECKS[check]._replace(tests=[impossible]))
    with pytest.raises(RuntimeError, match=f"check {check}: a right GPT-2 fails impossible"):
        measure([])


def test_every_test_loads_the_implementation(tmp_path_factory: pytest.TempPathFactory) -> None:
    """So no test passes without the implementation."""

    def unloadable(_folder: str) -> CompleteGPT2:
        raise OSError("no such thing")

    on = ground(tmp_path_factory.mktemp("ground"), trained=False)
    for check in CHECKS.values():
        for test in check.tests:
            assert (
                found(check._replace(tests=[test]), unloadable, on)
                == f"{test.__name__}: OSError: no such thing"
            )
