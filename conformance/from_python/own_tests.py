"""Gives another project's tests one test for each requirement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from ..chosen import of_families
from ..requirements import REQUIREMENTS
from ..verdict.findings import ERRORED, FAILED, NOT_APPLICABLE
from .judge import judge_requirements
from .verdict import Verdict

_Findings = dict[str, tuple[str, str]]  # requirement -> outcome and what is to be said
_FOUND: pytest.StashKey[dict[Any, _Findings | Exception]] = pytest.StashKey()
# Needs weights, or minutes and gigabytes: for the command line.
_NOT_ASKED = ("parity.given-checkpoint", "parity.published-sizes")


def requirements_for(
    model: Any,
    *,
    families: Iterable[str] | None = None,
    leave_out: Iterable[str] = (),
    dtype: str | torch.dtype | None = None,
    device: str = "cpu",
) -> Callable[..., None]:
    """Return a test with a parameter for each requirement.

        test_gpt2 = requirements_for(load)

    `model`, `families`, `dtype` and `device` are those of `judge`. `leave_out`: requirements and
    families that are not asked. The first test judges what all selected tests ask, and the others
    read its findings. Raises ValueError for a family or a requirement that there is not.
    """
    asked = set(REQUIREMENTS) if families is None else set(of_families(families))
    asked -= _left_out(leave_out)
    names = [name for name in REQUIREMENTS if name in asked and name not in _NOT_ASKED]

    @pytest.mark.parametrize("requirement", names)
    def test(requirement: str, request: pytest.FixtureRequest) -> None:
        def judged() -> _Findings:
            verdict = judge_requirements(model, _selected(request), dtype=dtype, device=device)
            return {name: (each, _said(verdict, name)) for name, each in verdict.outcomes.items()}

        outcome, said = _once(request, judged).get(requirement, (NOT_APPLICABLE, "not run"))
        if outcome in (FAILED, ERRORED):
            pytest.fail(said, pytrace=False)
        if outcome == NOT_APPLICABLE:
            pytest.skip(said)

    return test


def _left_out(names: Iterable[str]) -> set[str]:
    left: set[str] = set()
    for name in [names] if isinstance(names, str) else names:
        try:
            left |= {name} if name in REQUIREMENTS else of_families([name])
        except ValueError as error:
            raise ValueError(f"leave_out: {name!r}, expected a requirement or a family") from error
    return left


def _selected(request: pytest.FixtureRequest) -> frozenset[str]:
    """Return the requirements that the session asks of the same model: -k may leave some out."""
    function = request.node.function
    items = (item for item in request.session.items if getattr(item, "function", None) is function)
    return frozenset(item.callspec.params["requirement"] for item in items)  # type: ignore[attr-defined]


def _once(request: pytest.FixtureRequest, judged: Callable[[], _Findings]) -> _Findings:
    """Judge at the first test of a session. Raises what that raised at each of them."""
    known = request.session.stash.setdefault(_FOUND, {})
    function = request.node.function
    if function not in known:
        try:
            known[function] = _shared(request, judged)
        except Exception as error:
            known[function] = error
    found = known[function]
    if isinstance(found, Exception):
        raise found
    return found


def _said(verdict: Verdict, name: str) -> str:
    """Return the finding's sentence, and what explains it."""
    lines = [verdict.sentence_of(name)]
    if verdict.outcomes[name] in (FAILED, ERRORED):
        lines += [f"asked: {REQUIREMENTS[name].sentence}"]
    for cause in verdict.causes:
        if name in cause.explains:
            known = f": {cause.what} ({cause.source})" if cause.what else ""
            lines += [f"cause: {cause.id}{known}"]
            lines += [f"look at: {'; '.join(cause.places)}"] if cause.places else []
    return "\n".join(lines)


def _shared(request: pytest.FixtureRequest, judged: Callable[[], _Findings]) -> _Findings:
    """Judge once for all processes of pytest-xdist. The others wait and read what was found."""
    worker: dict[str, Any] | None = getattr(request.config, "workerinput", None)
    if worker is None:  # an environment variable would also hold in a session within a worker
        return judged()
    from filelock import FileLock  # torch needs it too

    folder = Path(request.getfixturevalue("tmp_path_factory").getbasetemp()).parent
    test = f"{worker['testrunuid']} {request.node.nodeid.partition('[')[0]}"
    file = folder / f"conformance-{hashlib.sha256(test.encode()).hexdigest()[:16]}.json"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            file.write_text(json.dumps(judged()), encoding="utf-8")
        found = json.loads(file.read_text(encoding="utf-8"))
    return {name: (outcome, said) for name, (outcome, said) in found.items()}
