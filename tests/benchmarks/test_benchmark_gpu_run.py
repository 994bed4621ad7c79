"""The prepared run for a GPU, on the CPU: its parts, what it writes, and its goals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_run, scale
from benchmarks.goals import Goal, goals
from benchmarks.gpu_run import PROJECT, Part, main, parts
from benchmarks.options import OPTIONS, read_plan
from tests.shared.cuda_emulation import emulated_cuda


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_tiny_parts_run_and_one_that_fails_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def some(device: str, folder: Path, *, tiny: bool) -> list[Part]:
        kept = {part.name: part for part in parts(device, folder, tiny=tiny)}
        return [
            Part("broken", 60, python("print('a reason'); raise SystemExit(3)")),
            Part("endless", 0.5, python("while True: pass")),
            kept["environment"],
            kept["xl"],
        ]

    monkeypatch.setattr(gpu_run, "parts", some)
    for name in ("broken", "another"):
        (tmp_path / f"{name}.json").write_text("of an earlier run")
    assert main(["--device", "cpu", "--tiny", "--output", str(tmp_path)]) == 2
    written = json.loads((tmp_path / "run.json").read_text())
    endings = {each["name"]: each["status"] for each in written["parts"]}
    output = capsys.readouterr().out
    assert endings == {"broken": 3, "endless": None, "environment": 0, "xl": 0}, output
    assert written["parts"][0]["last_lines"] == ["a reason"]
    assert "failed with exit status 3" in output
    assert "its time was out" in output
    figures = {each["words"]: each["found"] for each in written["goals"]}
    assert [found is None for found in figures.values()] == [True, True, True, True, False]
    assert all(words in output for words in figures)
    assert output.count("no figure") == 4
    files = sorted(path.name for path in tmp_path.glob("*.json"))
    assert files == ["another.json", "environment.json", "run.json", "xl.json"]


@pytest.mark.parametrize("tiny", [False, True])
def test_each_part_has_arguments_that_its_command_takes(tmp_path: Path, tiny: bool) -> None:
    found = parts("cuda", tmp_path, tiny=tiny)
    for part in found:
        words = [word for word in part.command if "-bench-" in word]
        if "benchmarks/" in part.command:
            options: dict[str, Any] = {name.replace("-", "_"): None for name in OPTIONS}
            for word in words:
                prefix, _, given = word.partition("bench-")
                name, _, value = given.partition("=")
                axis = OPTIONS[name].get("action") == "append"
                options[name.replace("-", "_")] = [value] if axis else value or prefix == "--"
            with emulated_cuda():
                assert read_plan(options).device == torch.device("cuda")
        elif "benchmarks.scale" in part.command:
            with emulated_cuda():
                scale._read(part.command[3:], scale.Process(0, 1, 0, 1))
        files = [word for word in part.command if word.endswith((".py", "/"))]
        assert all((PROJECT / word).exists() for word in files), files
    assert len({part.name for part in found}) == len(found)
    assert tiny or sum(part.limit for part in found) <= gpu_run.MOST_SECONDS


def row(name: str, rate: float, temperature: float = 0.0, **others: Any) -> dict[str, Any]:
    fields = {"implementation": name, "decode_tokens_per_second": rate, "valid": True}
    return {"extra_info": fields | {"temperature": temperature, "top_k": None} | others}


def write(folder: Path, name: str, content: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_goals_are_read_from_what_the_parts_have_left(tmp_path: Path) -> None:
    assert [each.found for each in goals(tmp_path)] == [None] * 5
    grid = [row("gpt2ref", 4100.0), row("gpt2ref", 4018.0, 1.0)]
    grid.append(row("gpt2ref", 9999.0, 1.3, valid=False))
    write(tmp_path, "grid", {"benchmarks": grid})
    peers = [row("gpt2ref", 4000.0), row("huggingface", 400.0), row("huggingface-static", 4000.0)]
    peers += [row("gpt2ref", 3900.0, 1.0), row("huggingface", 300.0, 1.0)]
    write(tmp_path, "peers", {"benchmarks": peers})
    compiled = [row("gpt2ref", 4000.0), row("gpt2ref-compiled", 5000.0)]
    write(tmp_path, "compiled", {"benchmarks": compiled})
    write(tmp_path, "environment", {"bandwidth": 2e12})
    shape = {"size": "gpt2-xl", "dtype": "bfloat16", "batch": 1}
    shape |= {"prompt_length": 0, "new_tokens": 0}  # so a step reads the weights alone
    write(tmp_path, "xl", shape | {"alone_tokens_per_second": 500.0})
    found = [each.found for each in goals(tmp_path)]
    # XL has 1,557,611,200 numbers, of which 1024 x 1600 are wpe.
    assert found == [5000.0, 4018 / 4100, 10.0, 1.0, pytest.approx(0.5 * 2 * 1.5559728e9 / 2e9)]
    assert [each.met for each in goals(tmp_path)] == [True, True, True, False, True]


@pytest.mark.parametrize(("found", "status"), [(1.0, 0), (0.9, 1), (None, 1)])
def test_the_exit_status_tells_whether_the_goals_are_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: float | None, status: int
) -> None:
    monkeypatch.setattr(gpu_run, "parts", lambda *_, **__: [])
    monkeypatch.setattr(gpu_run, "goals", lambda _: [Goal("a figure", 1.0, found)])
    assert main(["--device", "cpu", "--output", str(tmp_path)]) == status


def test_a_device_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit):
        main([])
    assert "--device=cuda: torch finds no CUDA device here" in capsys.readouterr().err
