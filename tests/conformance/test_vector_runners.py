"""The runners of vectors, in other languages, pass every case and name mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from conformance.vectors.answers import read_answers
from conformance.vectors.verdict import judge_answers
from tests.shared.vectors import comparison, written

# Runners with a GPT-2 of their own: the program that runs or builds it, the file of the GPT-2, and
# the scale of attention in it, right and wrong.
RUNNERS = {
    "java": ("java", "Runner.java", "/ Math.sqrt(n)", "/ Math.sqrt(width)"),
    "javascript": ("node", "gpt2.js", "/ Math.sqrt(width)", "/ Math.sqrt(n_embd)"),
    "rust": ("rustc", "gpt2.rs", "/ (width as f64).sqrt()", "/ (self.n_embd as f64).sqrt()"),
}


def needs(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def runs(words, tmp_path, status=0):
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done


def command_of(language, sources, tmp_path):
    """Return the words that run a runner, which is built first if need be."""
    if language == "javascript":
        return ["node", str(sources / "run.js")]
    if language == "java":
        return ["java", str(sources / "Runner.java")]
    # Without -O, it is built and run in less time.
    runs(["rustc", "--edition", "2021", "-o", "run", str(sources / "run.rs")], tmp_path)
    return [str(tmp_path / "run")]


def with_one_case(name, folder):
    """Return a folder of vectors with one case."""
    case = written().cases[name]
    for each in ("generator.json", f"cases/{name}.json", case["checkpoint"]):
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if "checkpoint" in each else shutil.copy)(
            written().folder / each, folder / each
        )
    index = {"cases": [{"id": name, "file": f"cases/{name}.json"}]}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.mark.parametrize("language", RUNNERS)
def test_a_runner_passes_every_case(language, tmp_path):
    needs(RUNNERS[language][0])
    command = command_of(language, written().folder / "runners" / language, tmp_path)
    done = runs([*command, str(written().folder), "answers.json"], tmp_path)
    assert f"0 of {len(written().cases)} cases failed" in done.stdout
    given = read_answers(tmp_path / "answers.json", written())
    judgement = judge_answers(given, written(), tmp_path, comparison())
    assert judgement.state == "no deviation found"
    assert judgement.counts["passed"] > 90


@pytest.mark.parametrize("language", RUNNERS)
def test_a_runner_says_which_mistake_it_is(language, tmp_path):
    program, file, right, wrong = RUNNERS[language]
    needs(program)
    folder = written().folder / "runners" / language
    sources = Path(shutil.copytree(folder, tmp_path / "sources"))
    source = (sources / file).read_text(encoding="utf-8")
    assert source.count(right) == 1
    (sources / file).write_text(source.replace(right, wrong), encoding="utf-8")
    vectors = with_one_case("attention", tmp_path / "vectors")
    done = runs([*command_of(language, sources, tmp_path), str(vectors)], tmp_path, status=1)
    assert "FAILED attention" in done.stdout
    assert "you have scale-by-n-embd: " in done.stdout


def test_the_runner_in_c(tmp_path):
    needs("cc")
    source = str(written().folder / "runners" / "c" / "run.c")
    runs(["cc", "-O2", "-o", "run", source, "-lm"], tmp_path)
    done = runs(["./run", str(written().folder)], tmp_path, status=1)
    # It ignores the activation that a config asks for, and a head that is not wte: a variant.
    failed = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("FAILED")]
    assert failed == ["other-head", "gelu", "relu"]
    file = tmp_path / "answers.json"
    file.write_text(done.stdout, encoding="utf-8")
    given = read_answers(file, written())
    judgement = judge_answers(given, written(), tmp_path, comparison())
    assert judgement.failed.keys() == {"config.activation"}


def test_the_runner_in_c_says_which_mistake_it_is(tmp_path):
    needs("cc")
    source = str(written().folder / "runners" / "c" / "run.c")
    runs(["cc", "-O2", "-DDEFECT_GELU_ERF", "-o", "run", source, "-lm"], tmp_path)
    done = runs(["./run", str(written().folder)], tmp_path, status=1)
    assert "FAILED mlp\n    you have gelu-erf\n" in done.stderr
