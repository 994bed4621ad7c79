"""An answer in another form is one error of the adapter, which says how to mend it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.shared import first_adapters
from tests.shared.documentation import blocks
from tests.shared.judging import judge, section

ADAPTERS = "tests/shared/first_adapters.py"
OF_LOGITS = {
    "tuple": r"returned a tuple \(a tensor of float32 \[1, 3, 50257\], None\): return the logits",
    "dictionary": r"returned a dict of logits, loss: return its logits alone",
    "model_output": r"returned a SimpleNamespace: return its logits alone",
    "last_position": r"the logits of the last position alone: .* called with targets",
    "last_position_without_time": r"the logits of the last position alone: .* with targets",
    "without_batch": r"without the batch: expected .*`logits\[None\]`",
    "flattened": r"returned shape \[3, 50257\] for token ids \[1, 3\]",
    "vocabulary_second": r"the last two dimensions exchanged",
    "argmax": r"a tensor of int64 \[1, 3\]: return floating-point logits",
    "nothing": r"logits\(\) returned None: return the logits as one tensor",
    "probabilities": r"returned probabilities, .*: return the numbers before the softmax",
    "padded_with_zeros": r"50304 logits a position, .* is 50257: cut the padding",
    "without_dtype": r"called as load\(\.\.\., device, dtype\): .* take these arguments",
    "returns_the_model": r"load\(\) returned a GPT2: return an object that has logits\(\)",
}
OF_GENERATE = {
    "prompt_first": r"returned the prompt and its continuation, .* `ids\[:, prompt_length:\]`",
    "one_flat_row": r"returned one flat row of 1 ids for 1 prompt\(s\): return a list",
    "nested": r"returned rows that are not lists of ids",
    "text": r"generate\(\) returned a str: return a list of the new ids of each row",
    "sequences": r"generate\(\) returned a SimpleNamespace: return a list of the new ids",
    "without_seed": r"called as generate\(token_ids, max_new_tokens, temperature, top_k, seed\)",
    "passes_seed_on": r"called as generate\(token_ids, max_new_tokens, temperature, top_k, seed\)",
}
RIGHT = ("any_integers", "padded_with_minus_infinity")


@pytest.fixture(scope="module")
def verdicts() -> str:
    names = [*OF_LOGITS, *OF_GENERATE, *RIGHT, "log_probabilities"]
    files = [f"conformance/test_{name}.py" for name in ("eos", "sampling", "parity", "probes")]
    some = "middle or per_row or temperature_zero or raw_logits or small and float32-1]"
    chosen = [f"--implementation={ADAPTERS}:{name}" for name in names]
    return judge(*files, "-k", some, *chosen).stdout


def verdict_on(name: str, verdicts: str) -> str:
    return " ".join(section(verdicts, f"{ADAPTERS}:{name}").split())


@pytest.mark.parametrize("name", OF_LOGITS)
def test_logits_in_another_form_are_one_error(verdicts: str, name: str) -> None:
    verdict = verdict_on(name, verdicts)
    assert len(re.findall(OF_LOGITS[name], verdict)) == 1, verdict
    assert "FAILED" not in verdict
    assert "ERRORED" not in verdict, "the adapter is broken, which is said without a requirement"


@pytest.mark.parametrize("name", OF_GENERATE)
def test_tokens_in_another_form_are_one_error(verdicts: str, name: str) -> None:
    verdict = verdict_on(name, verdicts)
    assert len(re.findall(OF_GENERATE[name], verdict)) == 1, verdict
    assert "FAILED" not in verdict
    assert verdict.count("ERRORED") == 1
    assert "parity 1 passed" in verdict, "logits are judged all the same"


@pytest.mark.parametrize("name", RIGHT)
def test_other_forms_are_accepted(verdicts: str, name: str) -> None:
    assert "no deviation from GPT-2 found" in verdict_on(name, verdicts)


def test_log_probabilities_are_a_variant_that_is_named(verdicts: str) -> None:
    verdict = verdict_on("log_probabilities", verdicts)
    assert "head.raw: variant log-probabilities, whose exponentials add up to 1" in verdict
    assert "FAILED" not in verdict


def test_all_forms_are_tested() -> None:
    assert {*first_adapters.LOGITS} <= {*OF_LOGITS}
    assert {*first_adapters.GENERATE} <= {*OF_GENERATE}


DRAWS_FROM_THE_GLOBAL_GENERATOR = """
import torch
from types import SimpleNamespace
from conformance.adapters.gpt2ref import load as read


class Mine:
    def __init__(self, right):
        self.logits, self.model = right.logits, self

    def generate(self, ids, n, temperature, top_k):
        for _ in range(n):
            logits = self.logits(ids)[:, -1] / temperature
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return ids


{recipe}

def load(checkpoint, **options):
    mine = Mine(read(checkpoint, **options))
    adapter = SimpleNamespace(model=mine, logits=mine.logits)
    adapter.generate = generate.__get__(adapter)
    return adapter
"""


def test_the_recipe_for_a_seed_is_accepted(tmp_path: Path) -> None:
    (recipe,) = [text for text in blocks("docs/adapters.md", "python") if "fork_rng" in text]
    file = tmp_path / "my_gpt2.py"
    file.write_text(DRAWS_FROM_THE_GLOBAL_GENERATOR.replace("{recipe}", recipe))
    chosen = ("conformance/test_sampling.py", "-k", "test_seed or test_global")
    run = judge(*chosen, f"--implementation={file}")
    assert "sampling     1 passed" in run.stdout, run.stdout[-3000:]


def write_adapter(folder: Path, import_inside: bool) -> str:
    """Write an adapter that brings its own module, model.py."""
    folder.mkdir()
    (folder / "model.py").write_text("from conformance.adapters.gpt2ref import load as read\n")
    place = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    head, inside = ("", "    from model import read\n") if import_inside else ("import model\n", "")
    call = "read" if import_inside else "model.read"
    text = f"{place}{head}def load(checkpoint, **options):\n{inside}"
    (folder / "my_gpt2.py").write_text(f"{text}    return {call}(checkpoint, **options)\n")
    return str(folder / "my_gpt2.py")


@pytest.mark.parametrize("import_inside", [False, True])
def test_two_modules_of_one_name_are_refused(tmp_path: Path, import_inside: bool) -> None:
    files = [write_adapter(tmp_path / name, import_inside) for name in "ab"]
    run = judge("conformance", *(f"--implementation={file}" for file in files))
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "import a module 'model' from a folder of their own" in run.stderr
    assert "judge them in runs of their own" in run.stderr


def test_an_adapter_that_does_not_import_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def load(:\n")
    run = judge("conformance", f"--implementation={tmp_path / 'broken.py'}")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "importing it raised SyntaxError: invalid syntax" in run.stderr


def test_an_assert_of_the_adapter_shows_its_own_words_alone(tmp_path: Path) -> None:
    (tmp_path / "test_my_gpt2.py").write_text(
        "def load(checkpoint, **options):\n    assert max([1]) == 2, 'two wanted'\n"
    )
    run = judge("conformance/test_text.py", f"--implementation={tmp_path / 'test_my_gpt2.py'}")
    assert "AssertionError: two wanted" in run.stdout
    assert "where" not in section(run.stdout, f"{tmp_path / 'test_my_gpt2.py'}")
