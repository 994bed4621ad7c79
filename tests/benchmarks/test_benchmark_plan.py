"""The benchmarks' command line: the plan that it makes, and the options that it refuses."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmarks.options
from benchmarks.implementations import IMPLEMENTATIONS, implementation_class
from benchmarks.implementations.adapter import FromAdapter
from benchmarks.implementations.huggingface import HuggingFaceStatic
from benchmarks.sampling import FULL_TEMPERATURES, FULL_TOP_KS, SHORT_TEMPERATURES, SHORT_TOP_KS
from tests.shared.benchmark_fakes import CPU, plan
from tests.shared.model_files import NANO


def test_defaults_on_the_cpu_are_one_shape_and_the_short_grid() -> None:
    default = plan(prompt_length=None)
    assert [str(cell) for cell in default.cells] == [
        f"gpt2-float32-batch=1-prompt_length=32-temperature={setting}"
        for setting in ("0-top_k=None", "0-top_k=40", "1-top_k=None", "1-top_k=40")
    ]
    assert default.implementations == ("gpt2ref", "huggingface")
    assert set(SHORT_TEMPERATURES) <= set(FULL_TEMPERATURES)
    assert set(SHORT_TOP_KS) <= set(FULL_TOP_KS)


def test_the_full_grid_fills_the_axes_that_are_not_given() -> None:
    assert len(plan(full_grid=True).cells) == 20
    assert plan(full_grid=True, temperature=["0.9"]).temperatures == (0.9,)
    assert plan(full_grid=True, temperature=["0.9"]).top_ks == FULL_TOP_KS


def test_every_axis_takes_several_values_by_commas_or_by_repetition() -> None:
    asked = plan(
        size=["tiny,gpt2"],
        dtype=["bfloat16", "float32"],
        batch=["1,2", "2,8"],
        prompt_length=["90", "8,16"],
        temperature=["0, 0.5"],
        top_k=["none,7"],
        implementation=["gpt2ref-textbook,gpt2ref", "gpt2ref"],
    )
    assert (asked.sizes, asked.dtypes, asked.batches) == (
        ("tiny", "gpt2"),
        ("bfloat16", "float32"),
        (1, 2, 8),
    )
    assert asked.prompt_lengths == (8, 16, 90)
    assert (asked.temperatures, asked.top_ks) == ((0.0, 0.5), (None, 7))
    assert asked.implementations == ("gpt2ref-textbook", "gpt2ref")
    assert len(asked.cells) == len(set(asked.cells)) == 2 * 2 * 3 * 3 * 2 * 2
    # Each weights once, and each shape once
    for part in ("weights", "shape"):
        changes = [getattr(cell, part) for cell in asked.cells]
        runs = [
            value
            for value, before in zip(changes, [None, *changes], strict=False)
            if value != before
        ]
        assert len(runs) == len(set(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": ["gpt3"]}, r"--bench-size=gpt3: expected tiny or gpt2 or .*gpt2-xl"),
        ({"size": ["tiny,"]}, r"--bench-size=: expected tiny or gpt2"),
        (
            {"implementation": ["jax"]},
            r"--bench-implementation=jax: expected gpt2ref or gpt2ref-compiled or gpt2ref-",
        ),
        ({"device": "tpu"}, r"--bench-device=tpu: expected cpu, cuda or cuda:N"),
        ({"device": "mps"}, r"--bench-device=mps: expected cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, r"--bench-device=cuda:99: torch finds \d+ CUDA devices"),
        (
            {"dtype": ["float32,int8"]},
            r"--bench-dtype=int8: expected float32 or bfloat16 or float16",
        ),
        ({"batch": ["1,0"]}, r"--bench-batch=0: expected an integer of at least 1"),
        ({"prompt_length": ["-3"]}, r"--bench-prompt-length=-3: expected an integer of at least 1"),
        (
            {"temperature": ["1,-0.1"]},
            r"--bench-temperature=-0.1: expected a finite number of at least 0",
        ),
        (
            {"temperature": ["nan"]},
            r"--bench-temperature=nan: expected a finite number of at least 0",
        ),
        (
            {"temperature": ["hot"]},
            r"--bench-temperature=hot: expected a finite number of at least 0",
        ),
        ({"top_k": ["0"]}, r"--bench-top-k=0: expected none or an integer from 1 to 50257"),
        ({"top_k": ["50258"]}, r"--bench-top-k=50258: expected none or an integer from 1 to 50257"),
        ({"rounds": "many"}, r"--bench-rounds=many: expected an integer of at least 1"),
        ({"new_tokens": "1"}, r"--bench-new-tokens=1: expected an integer of at least 2"),
        (
            {"size": ["gpt2"], "prompt_length": ["8,1000"], "new_tokens": "25"},
            r"--bench-prompt-length=1000 with --bench-new-tokens=25: "
            r"expected at most n_positions=1024 .*gpt2",
        ),
        (
            {"prompt_length": ["1"], "batch": ["4096"], "rounds": "1"},
            r"--bench-prompt-length=1 with 65536 rows in all: expected at most 25128",
        ),
        (
            {"full_grid": True, "temperature": ["1"], "top_k": ["1"]},
            r"--bench-full-grid with --bench-temperature and --bench-top-k",
        ),
    ],
)
def test_bad_options_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changes)


def test_a_missing_package_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.implementations.find_spec", lambda _name: None)
    for name, packages in (
        ("ctranslate2", "ctranslate2"),
        ("llama.cpp", "llama-cpp-python gguf"),
        ("onnxruntime", "onnxruntime-genai onnx-ir"),
        ("openvino", "openvino-genai"),
    ):
        with pytest.raises(
            ValueError, match=rf"--bench-implementation={name}: needs .* pip install {packages}$"
        ):
            plan(implementation=[f"gpt2ref,{name}"])
    assert plan(implementation=["gpt2ref,huggingface"]).implementations == (
        "gpt2ref",
        "huggingface",
    )


def test_a_dtype_that_an_implementation_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky:
        @staticmethod
        def refusal(device: Any, dtype: Any) -> str | None:
            return f"no {dtype} on {device}" if str(dtype) == "torch.float16" else None

    monkeypatch.setattr(benchmarks.options, "implementation_class", lambda _name: Picky)
    assert plan(dtype=["float32"])
    with pytest.raises(
        ValueError,
        match=r"--bench-implementation=gpt2ref with --bench-dtype=float16: no torch.float16 on cpu",
    ):
        plan(dtype=["float32,float16"])


@pytest.mark.parametrize(
    ("able", "reason"), [(True, None), (False, "this version of transformers has no static cache")]
)
def test_a_transformers_without_a_static_cache_is_refused(
    monkeypatch: pytest.MonkeyPatch, able: bool, reason: str | None
) -> None:
    monkeypatch.setattr(
        "benchmarks.implementations.huggingface.GPT2LMHeadModel._can_compile_fullgraph",
        able,
        raising=False,
    )
    refusal = HuggingFaceStatic.refusal(CPU, torch.float32)
    assert refusal is None if reason is None else str(refusal).startswith(reason)


def test_every_implementation_has_a_name_of_its_own() -> None:
    assert len(set(IMPLEMENTATIONS.values())) == len(IMPLEMENTATIONS) == 9


# Implementations that are given by their adapters.


def test_a_command_keeps_its_commas_and_may_be_the_last_of_several() -> None:
    program = f"command: {sys.executable} -c 'a,b' --list 1,2"
    assert plan(implementation=[f"gpt2ref, {program}", "huggingface"]).implementations == (
        "gpt2ref",
        program,
        "huggingface",
    )


def test_adapters_are_files_modules_and_classes(tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.write_text(NANO, encoding="utf-8")
    names = (f"{model}", f"{model}:GPT", "conformance.adapters.gpt2ref", "huggingface:load_eager")
    asked = plan(implementation=[",".join(names)])
    assert asked.implementations == names
    made = [implementation_class(name) for name in names]
    assert all(issubclass(each, FromAdapter) for each in made)
    assert implementation_class(names[0]) is made[0], "the file is imported again"
    with pytest.raises(ValueError, match="--bench-prompt-length=1 with 52800 rows in all"):
        plan(implementation=[",".join(names)], prompt_length=["1"], batch=["100"], rounds="10")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such.py", "No such file or directory"),
        ("no.such.module", "No module named 'no'"),
        ("conformance.adapters.gpt2ref:nothing", "has no function nothing"),
        ("command: no-such-program", "no-such-program: there is no such program"),
        ("", "Empty module name"),
    ],
)
def test_an_adapter_that_is_not_there_is_refused_by_name(name: str, why: str) -> None:
    expected = (
        rf"--bench-implementation={re.escape(name)}: expected gpt2ref or .*, a Python file or "
        rf"module with a GPT-2, or 'command: program': .*{why}"
    )
    with pytest.raises(ValueError, match=expected):
        plan(implementation=[name])


def test_two_files_with_modules_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(NANO, encoding="utf-8")
    names = ",".join(str(tmp_path / folder / "model.py") for folder in ("a", "b"))
    with pytest.raises(ValueError, match=r"--bench-implementation: two of .* a module 'model'"):
        plan(implementation=[names])
