"""The catalogue: each defect is caught by the requirement it names, and nothing else is flagged."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from conformance.defects import DEFECTS, EQUIVALENT, FAMILIES, VARIANTS, CompleteGPT2
from conformance.diagnosis.checkpoints import plain
from conformance.kill_matrix.matrix import ENTRIES, LARGE, NEVER, Matrix, asked
from conformance.requirements import REQUIREMENTS
from conformance.verdict.findings import ERRORED, FAILED, PASSED, VARIANT
from tests.shared.judging import judge, section

# A few of each kind, where the kind is the steps that a defect overrides.
# `pytest conformance/ --defects` judges all, and takes minutes. The last one is no mistake, and
# overrides nothing but the crop of a long text: it is asked all but frequencies and large shapes,
# and so is the GPT-2 that all derive from.
CHOSEN = (
    "mask-buffer-as-bias", "cache-not-reset", "left-pad-positions",
    "temperature-zero-crash", "no-crop", "unknown-id-decode", "context-end-refused",
)  # fmt: skip


def test_every_entry_has_a_description_and_a_source() -> None:
    for entry in ENTRIES.values():
        assert entry.what.endswith("."), entry.id
        assert len(entry.source) > 10, entry.id
        assert entry.family in FAMILIES
        assert entry.steps, f"{entry.id} overrides no step of CompleteGPT2"


def test_entries_of_two_families_share_no_attribute() -> None:
    """A GPT-2 with both would give both the same value."""
    families: dict[str, set[str]] = {}
    for entry in ENTRIES.values():
        for kind in entry.kind.__mro__[: entry.kind.__mro__.index(CompleteGPT2)]:
            for name in vars(kind):
                if not name.startswith("__") and not hasattr(CompleteGPT2, name):
                    families.setdefault(name, set()).add(kind.__module__)
    assert not {name: found for name, found in families.items() if len(found) > 1}


def test_no_entry_changes_the_tensors_that_were_read(tmp_path: Path) -> None:
    """A small file is read once for all that load it."""
    folder = str(plain(tmp_path))
    read = CompleteGPT2.read(tmp_path).values()
    before = [tensor._version for tensor in read]
    for entry in ENTRIES.values():
        with suppress(Exception):  # many of them refuse or crash
            model = entry.kind.load(folder)
            model.logits(torch.tensor([[5, 7]]))
            model.generate(torch.tensor([[5, 7]]), max_new_tokens=2, temperature=1.0, seed=3)
    assert [tensor._version for tensor in read] == before
    assert next(iter(CompleteGPT2.read(tmp_path).values())) is next(iter(read))


def test_every_requirement_names_a_defect() -> None:
    named = {entry.requirement for entry in DEFECTS.values()}
    assert REQUIREMENTS.keys() - named == NEVER


def test_every_requirement_is_tested_with_some_defect() -> None:
    for name in REQUIREMENTS:
        assert any(asked(entry, name) for entry in DEFECTS.values()) == (name not in NEVER), name
    for entry in ENTRIES.values():
        assert entry.requirement is None or asked(entry, entry.requirement)


def test_a_large_shape_is_used_only_for_defects_that_name_it() -> None:
    for name in LARGE:
        assert {entry.id for entry in ENTRIES.values() if asked(entry, name)} == {
            entry.id for entry in DEFECTS.values() if entry.requirement == name
        }


def test_some_defects_of_each_kind_are_caught_and_harmless_ones_are_not(tmp_path: Path) -> None:
    run = judge(
        "conformance",
        "--defects",
        ",".join(CHOSEN),
        "--defects-report",
        str(tmp_path / "kill.json"),
    )
    assert run.returncode == 0, run.stdout[-3000:]
    defects = [name for name in CHOSEN if name in DEFECTS]
    all_caught = f"{len(defects)} of {len(defects)} defects are caught"
    assert f"{all_caught}, each by the requirement that it names" in run.stdout
    assert f"0 of {len(CHOSEN) - len(defects)} that are no mistakes are flagged" in run.stdout
    matrix = json.loads((tmp_path / "kill.json").read_text(encoding="utf-8"))
    assert [entry["id"] for entry in matrix["entries"]] == list(CHOSEN)
    assert not matrix["problems"]
    (harmless,) = (entry["outcomes"] for entry in matrix["entries"] if entry["id"] not in DEFECTS)
    found = {name: outcome for name, outcome in harmless.items() if outcome != PASSED}
    assert found == {"generation.window": VARIANT}


def test_an_unknown_defect_is_refused() -> None:
    run = judge("conformance", "--defects", "gelu-erf,no-such")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--defects: no-such not in the catalogue" in run.stderr


def test_a_defect_can_be_judged_like_any_implementation() -> None:
    adapter = "conformance.defects:gelu-erf"
    run = judge(
        "conformance/test_text.py", "conformance/test_probes.py", "--implementation", adapter
    )
    verdict = section(run.stdout, adapter)
    assert "cause: gelu-erf: Exact (erf) GELU " in verdict
    assert "indistinguishable from: gelu-erf\n" in verdict
    assert re.search(r"^text +5 passed$", verdict, re.M)


# The matrix, from made-up outcomes.


def test_a_defect_that_another_requirement_catches_is_a_problem() -> None:
    matrix = Matrix({"gelu-erf": {"activation.curve": PASSED, "parity.float32": FAILED}})
    assert matrix.problems == ["gelu-erf: activation.curve is passed; caught by parity.float32"]


def test_a_crash_catches_nothing() -> None:
    matrix = Matrix({"gelu-erf": {"activation.curve": ERRORED}})
    assert matrix.problems == ["gelu-erf: activation.curve is errored; caught by none"]


@pytest.mark.parametrize("outcome", [FAILED, ERRORED])
@pytest.mark.parametrize("name", ["key-bias-missing", "topk-exactly-k"])
def test_a_flagged_harmless_entry_is_a_problem(name: str, outcome: str) -> None:
    assert Matrix({name: {"laws.prefix": outcome}}).problems == [
        f"{name}: is no mistake, and flagged by laws.prefix"
    ]


def test_a_defect_reported_as_a_variant_is_a_problem() -> None:
    assert not Matrix({"topk-exactly-k": {"sampling.top-k-ties": VARIANT}}).problems
    assert Matrix({"key-bias-missing": {"sampling.top-k-ties": VARIANT}}).problems


def test_a_requirement_that_catches_nothing_is_a_problem_of_the_whole_catalogue() -> None:
    caught = {
        name: {entry.requirement: FAILED} for name, entry in DEFECTS.items() if entry.requirement
    }
    idle = set(REQUIREMENTS) - NEVER - {entry.requirement for entry in DEFECTS.values()}
    assert Matrix(caught).problems == [
        f"{name}: catches no defect" for name in REQUIREMENTS if name in idle
    ]
    assert not Matrix(dict(list(caught.items())[:3])).problems


def test_defects_that_a_single_requirement_catches_are_listed() -> None:
    matrix = Matrix(
        {
            "gelu-erf": {"activation.curve": FAILED},
            "relu": {"activation.curve": FAILED, "parity.float32": FAILED},
        }
    )
    assert matrix.kills["activation.curve"] == ["gelu-erf", "relu"]
    assert matrix.sole["activation.curve"] == ["gelu-erf"]
    assert not matrix.sole["parity.float32"]


def test_the_variants_are_those_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/adapters.md").read_text(encoding="utf-8")
    table = page.split("## Where sources disagree")[1]
    for entry in VARIANTS.values():
        assert f"| `{entry.requirement}` |" in table
    assert EQUIVALENT
