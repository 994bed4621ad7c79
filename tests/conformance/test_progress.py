"""A run tells while it lasts its findings, the time left, and how far the diagnosis is."""

from __future__ import annotations

import io

import pytest

from conformance.requirements import REQUIREMENTS
from conformance.studies.durations import Stopwatch
from conformance.verdict import plan
from conformance.verdict.findings import FAILED, FINDING, NOT_APPLICABLE, PASSED, Finding, Result
from conformance.verdict.judgement import Judgement
from conformance.verdict.progress import Progress

# The time left.


def test_the_usual_times_are_those_of_the_requirements() -> None:
    known = plan._durations()
    assert known.keys() == REQUIREMENTS.keys() - {
        "parity.given-checkpoint",
        "parity.published-sizes",
    }
    assert min(known.values()) > 0


def test_the_shares_of_a_run_add_up() -> None:
    tests = [(adapter, name) for name in REQUIREMENTS for adapter in ("mine", "yours")] * 2
    places = [plan.Plan(tests).place(*each) for each in tests]
    assert sum(place["share"] for place in places) == pytest.approx(1)
    assert places[0]["families"] == 2 * len({plan.family_of(name) for name in REQUIREMENTS})


def test_the_time_left_follows_the_speed_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("conformance.verdict.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(stream)
    judgement = Judgement("mine")
    found = {
        # The first test ends late, as the processes had to start.
        "head.raw": (100, Finding(PASSED)),
        "text.encode": (100, Finding(NOT_APPLICABLE)),  # takes no time, and tells no speed
        "activation.curve": (110, Finding(FAILED, "relu", "tanh-GELU")),
        "eos.middle": (120, Finding(PASSED)),
        "laws.prefix": (130, Finding(PASSED)),
    }
    for name, (at, finding) in found.items():
        now[0] = at
        judgement.results[name] = Result()
        judgement.results[name].add(finding)
        progress.tested(judgement, name, finding, {"share": 0.2, "tests": 1, "families": 5})
    assert stream.getvalue().splitlines() == [
        "head: 1 passed (1 of 5 families)",
        "text: 1 not applicable (2 of 5 families)",
        "first finding: activation.curve: reads relu; GPT-2 has tanh-GELU",
        "activation: 1 failed (3 of 5 families, 00:20 left)",
        "eos: 1 passed (4 of 5 families, 00:10 left)",
        "laws: 1 passed (5 of 5 families)",
    ]


def test_a_first_finding_without_a_mistake_is_followed_by_one_that_names_it() -> None:
    stream = io.StringIO()
    progress, judgement = Progress(stream), Judgement("mine")
    found = (
        ("parity.float32", Finding(FAILED, "2.4e-03 off")),
        ("parity.float64", Finding(FAILED, "2.4e-03 off")),
        ("activation.curve", Finding(FAILED, "gelu-erf", "tanh-GELU", ("gelu-erf",), own=True)),
        ("head.raw", Finding(FAILED, "no-ln-f", "ln_f", ("no-ln-f",), own=True)),
    )
    for name, finding in found:
        progress.tested(judgement, name, finding, {"share": 0.1, "tests": 9, "families": 4})
    assert stream.getvalue().splitlines() == [
        "first finding: parity.float32: 2.4e-03 off",
        "first mistake: activation.curve: reads gelu-erf; GPT-2 has tanh-GELU",
    ]


# The diagnosis.


def test_a_diagnosis_that_runs_beside_the_tests_is_told_when_it_is_waited_for() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.comparing("mine", "12 of 70 questions")
    assert stream.getvalue() == ""
    progress.comparing("mine", waited=True)
    progress.comparing("mine", "13 of 70 questions")
    progress.comparing("mine", "3 of 4 are explained", lasting=True)
    progress.comparing("mine", "3 of 4 are explained", lasting=True)
    assert stream.getvalue().splitlines() == [
        "looking for the mistakes: 12 of 70 questions",
        "looking for the mistakes: 3 of 4 are explained",
    ]


def test_a_stopwatch_takes_the_mean_of_a_requirements_tests() -> None:
    stopwatch = Stopwatch()
    for test, name, seconds in (("a", "head.raw", 1), ("b", "head.raw", 2), ("c", "eos.middle", 4)):
        for when, part in (("setup", 0.25), ("call", 0.75)):
            found = [(FINDING, {"requirement": name})] if when == "call" else []
            report = pytest.TestReport(
                *(test, ("", 0, ""), {}, "passed", None),
                when=when,  # type: ignore[arg-type]
                duration=part * seconds,
                user_properties=found,
            )
            stopwatch.pytest_runtest_logreport(report)
    assert stopwatch.means() == {"head.raw": 1.5, "eos.middle": 4.0}
