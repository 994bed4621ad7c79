"""`gpt2-benchmark`: what it asks of pytest, and the files that it writes.

tests/project/test_distribution.py runs it, as it is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import FOLDER, main
from tests.shared.benchmark_results import a_result, written
from tests.shared.model_files import NANO


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Stand in for pytest: keep its arguments, and write results where it is told to."""
    words: list[str] = []

    def run(given: list[str], plugins: Any = ()) -> int:  # noqa: ARG001
        words.extend(given)
        (json,) = (word.partition("=")[2] for word in given if word.startswith("--benchmark-json="))
        path = Path(json)
        written(path.parent, a_result(), name=path.name)
        return 0

    monkeypatch.setattr(pytest, "main", run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(NANO, encoding="utf-8")
    return words


def of_the_benchmarks(words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(("--bench-", "--no-bench-"))]


def test_one_word_is_measured_beside_gpt2ref_and_hugging_face(asked: list[str]) -> None:
    assert main(["model.py"]) == 0
    names = ("model.py", "gpt2ref", "huggingface")
    assert of_the_benchmarks(asked) == [f"--bench-implementation={name}" for name in names]
    assert str(FOLDER) in asked
    assert sorted(path.name for path in Path().iterdir()) == ["model.py"]


def test_the_options_are_those_of_the_benchmarks_without_their_prefix(asked: list[str]) -> None:
    command = "command: python3 -c 'a,b'"
    options = ["--size", "tiny,gpt2", "--batch=1", "--no-full-grid", "--rounds", "2"]
    assert main([command, *options, "gpt2ref-textbook", "--peers", "none", "--top-k=1"]) == 0
    assert of_the_benchmarks(asked) == [
        "--bench-size=tiny,gpt2",
        f"--bench-implementation={command}",
        "--bench-implementation=gpt2ref-textbook",
        "--bench-batch=1",
        "--bench-top-k=1",
        "--no-bench-full-grid",
        "--bench-rounds=2",
    ]


def test_the_files_that_are_asked_for_are_written(asked: list[str]) -> None:
    files = {"--json": "o.json", "--output": "r.md", "--html": "r.html", "--svg": "s.svg"}
    assert main(["model.py", *(word for pair in files.items() for word in pair)]) == 0
    assert "--benchmark-json=o.json" in asked
    starts = {"o.json": "{", "r.md": "# GPT-2", "r.html": "<!DOCTYPE html>", "s.svg": "<svg"}
    for name, start in starts.items():
        assert Path(name).read_text(encoding="utf-8").lstrip().startswith(start), name
    assert main(["model.py", "--html", "alone.html"]) == 0
    assert sorted(path.suffix for path in Path().iterdir()) == [
        *(".html", ".html", ".json", ".md", ".py", ".svg")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such.py"], "error: no_such.py: expected gpt2ref or"),
        (["model.py", "--size", "gpt3"], "error: --size=gpt3: expected tiny or gpt2"),
        (["model.py", "--peers", "jax"], "error: jax: expected gpt2ref or"),
        (["model.py", "--html", "nowhere/r.html"], "error: --html=nowhere/r.html: no such folder"),
        (["model.py", "--nothing"], "error: unrecognized arguments: --nothing"),
        (["--peers", "none"], "error: nothing is named: expected an adapter or an engine"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    words: list[str], message: str, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert asked == []


def test_the_status_is_that_of_pytest(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest, "main", lambda *_, **__: 1)
    assert main(["model.py", "--html", "r.html"]) == 1
    assert not Path("r.html").exists()
    assert asked == []
