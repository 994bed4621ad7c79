"""judge(): the verdict as an object, and a process that is afterwards as it was before."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

from conformance import Verdict, judge
from conformance.chosen import FAMILIES
from conformance.defects import CompleteGPT2
from conformance.from_python.given import name_of
from conformance.requirements import REQUIREMENTS
from tests.shared import defective_adapters
from tests.shared.html_pages import Structure
from tests.shared.judging import judge as run_pytest
from tests.shared.notebooks import run_cells

ROOT = Path(__file__).parents[2]
HEAD = ["head"]
RIGHT = "from conformance.adapters.gpt2ref import load\n"


@pytest.fixture(scope="module")
def notebook() -> list[Any]:
    """What the cells of the notebook in the documentation show."""
    return run_cells(ROOT / "docs/judge_your_gpt2.ipynb")


# The verdict.


def test_a_right_gpt2_passes(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = judge(CompleteGPT2.load, families=HEAD)
    assert verdict.passed
    assert verdict.outcomes == {name: "passed" for name in REQUIREMENTS if name.startswith("head.")}
    assert (verdict.causes, verdict.unexplained, verdict.failed) == ([], [], {})
    sentence = "CompleteGPT2.load: no deviation from GPT-2 found."
    assert sentence in str(verdict)
    assert sentence in repr(verdict)
    assert verdict.report["adapters"][0]["verdict"]["state"] == "no deviation found"
    shown = capsys.readouterr()
    shown_lines = "judging CompleteGPT2.load\nhead: 1 passed (1 of 1 families)\n"
    assert (shown.out, shown.err) == ("", shown_lines)


def test_the_notebook_names_the_mistake_and_repairs_it(notebook: list[Any]) -> None:
    wrong, right = (shown for shown in notebook if isinstance(shown, Verdict))
    assert [cause.id for cause in wrong.causes] == ["gelu-erf"]
    assert not wrong.passed
    assert {"activation.curve": ["reads gelu-erf; GPT-2 has tanh-GELU"] * 2} in notebook
    assert "judging GPT of this notebook: built with the arguments" in str(wrong)
    assert 'again: judge(GPT, families=["activation"])' in str(wrong)
    assert right.passed
    assert notebook[-1] is True


def test_a_kernel_runs_the_notebook() -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = nbformat.read(ROOT / "docs/judge_your_gpt2.ipynb", as_version=4)
    nbclient.NotebookClient(cells, timeout=600).execute()
    assert "text/html" in cells.cells[3].outputs[-1].data
    assert cells.cells[-1].outputs[0].data["text/plain"] == "True"


def test_its_picture_is_a_part_of_a_page(notebook: list[Any]) -> None:
    pictures = [shown._repr_html_() for shown in notebook if isinstance(shown, Verdict)]
    structures = [Structure(picture) for picture in pictures]
    for structure in structures:
        assert not structure.tags & {"html", "head", "body", "main", "title"}
        assert {target.removeprefix("#") for target in structure.targets} <= set(structure.ids)
    first, second = (set(structure.ids) for structure in structures)
    assert first
    assert not first & second, "links of one lead to the other"
    assert "gelu-erf" in pictures[0]
    assert "sampling.seed" not in pictures[0], "it was not asked"


def test_what_can_not_be_asked_is_not_passed() -> None:
    verdict = judge(defective_adapters.logits_only, families=["eos"], progress=False)
    assert set(verdict.outcomes.values()) == {"not applicable"}
    assert not verdict.passed
    assert "the adapter has no generate()" in verdict.sentence_of("eos.middle")


# What is judged.


def test_a_file_is_read_anew_and_its_modules_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("wrong = False\n", encoding="utf-8")
    mine = tmp_path / "my_gpt2.py"
    mine.write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport beside\n{RIGHT}")
    assert judge(mine, families=HEAD, progress=False).passed
    assert not {"beside", "my_gpt2"} & set(sys.modules)
    mine.write_text("def load(checkpoint, *, device, dtype):\n    raise ValueError('changed')\n")
    verdict = judge(str(mine), families=HEAD, progress=False)
    assert set(verdict.outcomes.values()) == {"errored"}
    assert "ValueError: changed" in str(verdict)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside.py", "my_gpt2.py"]


def test_modules_and_built_in_names_are_taken() -> None:
    from conformance.adapters import huggingface

    assert judge(huggingface, families=HEAD, progress=False).passed
    with pytest.raises(ValueError, match=r"no_such\.py: .*expected gpt2ref, huggingface"):
        judge("no_such.py")


def test_the_from_pretrained_of_transformers_itself_is_taken() -> None:
    verdict = judge(GPT2LMHeadModel.from_pretrained, families=HEAD, progress=False)
    assert verdict.passed
    assert "by GPT2LMHeadModel.from_pretrained()" in str(verdict)


@pytest.mark.parametrize("model", [3, None, nn.Linear(1, 1)])
def test_another_object_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(model).__name__} object: expected a function load"):
        judge(model)


def test_a_class_without_a_place_or_without_a_gpt2_is_refused() -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"Local: .* define the class at the top level"):
        judge(Local)
    with pytest.raises(ValueError, match=r"TransformerEncoder: .*no GPT-2 is recognised"):
        judge(nn.TransformerEncoder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"families": ["eos", "heads"]}, f"families: 'heads', expected some of {FAMILIES[0]}"),
        ({"families": []}, r"families: \[\], expected some of"),
        ({"dtype": "int8"}, "dtype: 'int8', expected one of float64"),
        ({"dtype": torch.int64}, "dtype: torch.int64, expected one of float64"),
        ({"device": "abacus"}, "device.*abacus"),
    ],
)
def test_an_unknown_option_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        judge(CompleteGPT2.load, **options)


def test_names_are_short() -> None:
    def load() -> None: ...

    assert name_of(load) == name_of(functools.partial(load)) == "load"
    assert name_of(defective_adapters.logits_only) == "logits_only"


# The process.


def disturbing(checkpoint: str, **options: Any) -> Any:
    """Change everything that a model's code may change, and load a right GPT-2."""
    os.environ["DISTURBED"] = "1"
    os.environ.pop("KEPT", None)
    os.chdir(checkpoint)
    sys.path.append("disturbed")
    torch.manual_seed(5)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    random.seed(5)
    np.random.seed(5)
    warnings.simplefilter("ignore")
    logging.root.setLevel(1)
    logging.root.addHandler(logging.NullHandler())
    torch.set_default_dtype(torch.float32)
    return CompleteGPT2.load(checkpoint, **options)


def state() -> list[Any]:
    return [
        dict(os.environ),
        Path.cwd(),
        list(sys.path),
        list(sys.meta_path),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()),
        list(warnings.filters),
        (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        (sys.stdout, sys.stderr, sys.dont_write_bytecode),
        (sys.excepthook, sys.unraisablehook, threading.excepthook),
        sorted(Path(tempfile.gettempdir()).iterdir()),
    ]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = state()
    assert judge(disturbing, families=HEAD, progress=False).passed
    for was, now in zip(before, state(), strict=True):
        assert now == was


def test_it_works_in_threads_and_in_a_loop(capsys: pytest.CaptureFixture[str]) -> None:
    async def cell() -> list[Verdict]:
        with ThreadPoolExecutor(2) as threads:
            models = (CompleteGPT2.load, defective_adapters.last_logits_only)
            jobs = [threads.submit(judge, each, families=HEAD, progress=False) for each in models]
            return [judge(CompleteGPT2.load, families=HEAD, progress=False)] + [
                job.result() for job in jobs
            ]

    assert [verdict.passed for verdict in asyncio.run(cell())] == [True, True, False]
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_is_passed_on() -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(interrupted, families=HEAD, progress=False)


# The import.


def test_the_import_needs_neither_pytest_nor_torch() -> None:
    code = (
        "import conformance, sys; assert {'judge', 'Verdict'} <= set(conformance.__all__); "
        "sys.exit(bool({'pytest', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from conformance import no_such_name")


def test_an_editable_install_has_the_functions_of_the_working_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "conformance/__init__.py").read_text(encoding="utf-8")
    elsewhere = next(
        line for line in (ROOT / "hatch_build.py").read_text().splitlines() if "ELSEWHERE =" in line
    )
    names: dict[str, str] = {}
    exec(elsewhere, names)
    package = tmp_path / "gpt2ref_conformance"
    package.mkdir()
    made = text + names["ELSEWHERE"].format(folder=str(ROOT / "conformance"))
    (package / "__init__.py").write_text(made, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gpt2ref_conformance", raising=False)
    installed = importlib.import_module("gpt2ref_conformance")
    assert Path(installed.__file__ or "").parent == package
    assert installed.judge is judge


# --quick.


def test_quick_asks_small_checkpoints_alone() -> None:
    run = run_pytest("conformance", "--quick", "--collect-only", "-q")
    files = {line.partition("::")[0] for line in run.stdout.splitlines() if "::" in line}
    assert files == {
        f"conformance/test_{name}.py"
        for name in ("attention_weights", "parity", "probes", "transpose")
    }
    assert "float32" in run.stdout
    assert "bfloat16" not in run.stdout


def test_quick_says_what_it_left_out() -> None:
    run = run_pytest("conformance/test_transpose.py", "--quick", "-k", "c_proj and not mlp")
    assert "\nLeft out by --quick: keys, 4 of transpose, parity, activation," in run.stdout
