"""The page of a kill matrix. No defect is judged here: the outcomes are made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conformance.defects import DEFECTS
from conformance.kill_matrix.matrix import ENTRIES, NEVER, Matrix
from conformance.pages.__main__ import main
from conformance.pages.kill_matrix_page import LEGEND, SIGNS, page
from conformance.requirements import REQUIREMENTS
from conformance.verdict.findings import ERRORED, FAILED, NOT_APPLICABLE, OUTCOMES, PASSED, VARIANT
from tests.shared.html_pages import Structure, rendered

GOOD = {
    "gelu-erf": {
        "activation.curve": FAILED,
        "blocks.order": FAILED,
        "blocks.norms": FAILED,
        "parity.float64": PASSED,
    },
    "no-ln-f": {"final-norm.count": FAILED, "cache.splits": ERRORED, "text.encode": NOT_APPLICABLE},
    "op-order-drift": {"parity.float64": PASSED},
    "centred-unembed": {"head.raw": VARIANT},
}
HOSTILE = "<script>alert(1)</script>'\"&<|endoftext|> \x00\x1b[31m \ud800 \u202e"


def data(outcomes: dict[str, dict[str, str]]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Matrix(outcomes).to_json({"torch": "2.13.0"}))
    return loaded


def words(made: str) -> str:
    made.encode()
    return " ".join("".join(Structure(made).words).split())


def cell(made: str, entry: str, requirement: str) -> tuple[str, str]:
    """Return the class of a cell and its tooltip."""
    (found,) = re.findall(
        rf'<td class="([^"]*)" title="{re.escape(entry)} / {re.escape(requirement)}: ([^"]*)"', made
    )
    return found


def test_the_whole_catalogue_is_on_the_page() -> None:
    made = page(
        data(
            {
                name: {entry.requirement or "": FAILED} if name in DEFECTS else {}
                for name, entry in ENTRIES.items()
            }
        )
    )
    structure = Structure(made)
    shown = {each.strip() for each in structure.words}
    assert set(ENTRIES) | set(REQUIREMENTS) <= shown
    assert {entry.what for entry in ENTRIES.values()} | {
        row.sentence for row in REQUIREMENTS.values()
    } <= shown
    assert len(set(structure.ids)) == len(structure.ids) == len(ENTRIES) + len(REQUIREMENTS)
    assert {target.removeprefix("#") for target in structure.targets} == set(structure.ids)
    assert f"{len(DEFECTS)} of {len(DEFECTS)} defects are caught" in words(made)
    assert made.count("<td class=") == len(ENTRIES) * len(REQUIREMENTS)
    for name in NEVER:
        assert name in words(made).partition("Not asked of any: ")[2].partition(". ")[0]


def test_each_cell_shows_its_outcome_and_whether_it_was_expected() -> None:
    made = page(data(GOOD))
    assert cell(made, "gelu-erf", "activation.curve") == ("edge named", LEGEND["named"])
    assert cell(made, "gelu-erf", "blocks.order") == ("caught", LEGEND["caught"])
    assert cell(made, "gelu-erf", "parity.float64")[1] == PASSED
    assert cell(made, "gelu-erf", "head.raw") == ("edge not-run", "not asked")
    assert cell(made, "no-ln-f", "cache.splits") == ("edge errored", ERRORED)
    assert cell(made, "no-ln-f", "text.encode") == ("edge not-applicable", NOT_APPLICABLE)
    assert cell(made, "centred-unembed", "head.raw") == ("edge variant", VARIANT)
    text = words(made)
    for sentence in (
        "As it must be",
        "2 of 2 defects are caught",
        "0 of 1 equivalents",
        "0 of 1 variants",
        "Also caught by 2: ",
    ):
        assert sentence in text
    assert "✗" not in text.replace("✗ not as it must be", "")
    assert set(SIGNS) >= set(OUTCOMES)


def test_problems_are_shown_where_they_are() -> None:
    bad = {
        "gelu-erf": {"activation.curve": PASSED, "blocks.order": FAILED},
        "no-ln-f": {},
        "op-order-drift": {"parity.float64": FAILED},
        "centred-unembed": {"head.raw": ERRORED},
    }
    made = page(data(bad))
    text = words(made)
    assert "Not as it must be" in text
    for sentence in (
        "0 of 2 defects are caught",
        "1 of 1 equivalents",
        "1 of 1 variants",
        *Matrix(bad).problems,
    ):
        assert sentence in text
    assert cell(made, "gelu-erf", "activation.curve") == ("edge wrong", PASSED)
    assert cell(made, "no-ln-f", "final-norm.count") == ("edge wrong", "not run")
    assert cell(made, "op-order-drift", "parity.float64") == ("edge wrong", FAILED)
    assert cell(made, "centred-unembed", "head.raw") == ("edge wrong", ERRORED)


def test_several_defects_at_once_name_no_requirement() -> None:
    made = page(data(GOOD | {"gelu-erf+no-ln-f": {"blocks.order": FAILED}}))
    assert cell(made, "gelu-erf+no-ln-f", "blocks.order") == ("caught", LEGEND["caught"])
    assert "Several at once" in words(made)
    assert "2 of 2 defects are caught" in words(made)
    assert "0 of 1 variants" in words(made)


def test_markup_in_a_matrix_is_escaped() -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            fixed = ("kind", "outcomes", "requirement", "kills", "sole")
            return {key: each if key in fixed else poison(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poison(each) for each in value]
        return value + HOSTILE if isinstance(value, str) else value

    bad = poison(data(GOOD | {HOSTILE: {"blocks.order": FAILED}}))
    for row in bad["entries"]:
        row["outcomes"] = {name + HOSTILE: outcome for name, outcome in row["outcomes"].items()}
        if row.get("requirement"):
            row["requirement"] += HOSTILE
    for row in bad["requirements"]:
        row["sole"] = [bad["entries"][0]["id"]]
    bad["problems"] = [HOSTILE]
    made = page(bad)
    structure = Structure(made)
    assert all(re.fullmatch("#[er][0-9]+", target) for target in structure.targets)
    assert "<|endoftext|>" in "".join(structure.words)
    assert "\x00" not in made
    assert "<|endoftext|>" not in made


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    source, output = tmp_path / "kill.json", tmp_path / "kill.html"
    source.write_text(Matrix(GOOD).to_json({"torch": "2.13.0"}), encoding="utf-8")
    assert main([str(source), "-o", str(output)]) == 0
    assert not re.findall("https?:|url\\(|@import", output.read_text(encoding="utf-8")), (
        "nothing is loaded"
    )
    dom = rendered(output, tmp_path)
    for expected in ("As it must be", "2 of 2 defects are caught", *GOOD, *REQUIREMENTS):
        assert expected in dom
    assert dom.count("<td class=") == len(GOOD) * len(REQUIREMENTS)


BAD = ["", "[]", "{}", '{"format": 2, "entries": []}', '{"format": 1, "entries": []}', None]


@pytest.mark.parametrize(
    "content", [*BAD, json.dumps(data({"gelu-erf": {"activation.curve": "odd"}}))]
)
def test_a_file_that_is_no_matrix_is_named(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kill.json"
    if content is not None:
        path.write_text(content)
    assert main([str(path), "-o", str(tmp_path / "kill.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path}: no page: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "kill.html").exists()
