"""The verdict on right, wrong and broken implementations."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest

from conformance.requirements import REQUIREMENTS
from tests.shared.judging import ADAPTERS, ROOT, Run, judge, section

# Wrong GPT-2 -> the requirement that must fail.
DEFECTS = {
    "gelu-erf": "activation.curve",
    "ln-eps-wrong": "layer-norm.epsilon-ln_f",
    "square-proj-untransposed": "transpose.attn.c_proj",
    "reshape-for-transpose-c_proj": "transpose.mlp.c_proj",
    "reshape-for-transpose-c_attn": "transpose.attn.c_attn",
    "position-not-offset": "cache.splits",
    "partial-load-accepted": "keys.missing",
    "eos-kept": "eos.middle",
    "eos-any-row": "eos.per-row",
}
SPECIFICATIONS = {
    f"conformance.defects:{name}": requirement for name, requirement in DEFECTS.items()
} | {f"{ADAPTERS}:declares_bfloat16_no_scale": "attention.scale"}
# A few of the tests, since each of them runs for every wrong GPT-2.
TESTS_OF_DEFECTS = (
    "test_small and float32-36 or test_orientation or test_every_split or test_missing and wte "
    "or test_middle or test_per_row and first-row or test_activation_curve or test_constant"
)


@pytest.fixture(scope="module")
def run_on_hugging_face() -> Run:
    # Not in the published shapes, where it would be compared with itself. Its sampler is asked for
    # frequencies once of each kind.
    dropped = (
        "published_sizes or no_other or test_distribution[ and not 40 "
        "or test_probability and 0.05 or test_temperature_range and not float32"
    )
    chosen = f"not ({dropped})"
    return judge("conformance", "-k", chosen, "--implementation", "huggingface")


@pytest.fixture(scope="module")
def verdicts_on_defects() -> str:
    chosen = [f"--implementation={name}" for name in SPECIFICATIONS]
    return judge("conformance", "-k", TESTS_OF_DEFECTS, *chosen).stdout


@pytest.mark.parametrize("adapter", SPECIFICATIONS)
def test_a_defect_fails_its_requirement(verdicts_on_defects: str, adapter: str) -> None:
    verdict = section(verdicts_on_defects, adapter)
    assert f"{SPECIFICATIONS[adapter]}: FAILED\n    asked: " in verdict
    assert f"{adapter}: NOT a right GPT-2." in verdict
    assert "ERRORED" not in verdict, "a wrong answer is no broken adapter"


def test_a_failure_shows_the_command_that_repeats_it() -> None:
    adapter = "conformance.defects:square-proj-untransposed"
    verdict = section(
        judge("conformance/test_transpose.py", "-k", "c_proj", "--implementation", adapter).stdout,
        adapter,
    )
    assert "reads square-proj-untransposed; GPT-2 has attn.c_proj.weight" in verdict
    (command,) = re.findall(r"transpose.attn.c_proj: FAILED.*?again: pytest (.*?)\n", verdict, re.S)
    again = judge(*shlex.split(command))
    assert again.returncode == 1
    assert "1 failed" in again.stdout.splitlines()[-1]


def test_lower_precision_is_distinguished_from_a_mistake() -> None:
    declares, conceals = f"{ADAPTERS}:declares_bfloat16", f"{ADAPTERS}:conceals_bfloat16"
    chosen = ("-k", "curve or activation or scale or variance")
    run = judge(
        "conformance/test_probes.py",
        *chosen,
        "--implementation",
        declares,
        "--implementation",
        conceals,
    )
    assert f"{declares}: no deviation from GPT-2 found" in section(run.stdout, declares)
    verdict = section(run.stdout, conceals)
    assert "right to the rounding of torch.bfloat16, but not of torch.float32" in " ".join(
        verdict.split()
    )
    assert "reads" not in verdict


def test_missing_methods_are_not_applicable_and_never_passed() -> None:
    adapter = f"{ADAPTERS}:logits_only"
    run = judge(
        "conformance/test_eos.py",
        "conformance/test_cache.py",
        "-k",
        "not 124m",
        "--implementation",
        adapter,
    )
    verdict = section(run.stdout, adapter)
    assert run.returncode == 0
    assert re.search(r"^eos +8 not applicable$", verdict, re.M)
    assert re.search(r"^cache +5 not applicable$", verdict, re.M)
    assert "eos.first-step: not applicable\n    the adapter has no generate()" in verdict
    assert f"{adapter}: nothing could be judged." in verdict


def test_an_exception_is_the_adapters_error_and_no_wrong_answer() -> None:
    adapter = f"{ADAPTERS}:raises_in_generate"
    run = judge("conformance/test_eos.py", "--implementation", adapter)
    verdict = section(run.stdout, adapter)
    assert run.returncode == 1
    assert re.search(r"^eos +8 errored$", verdict, re.M)
    assert "found: RuntimeError: out of luck" in verdict
    assert f"{adapter}: NOT judged in full." in verdict


@pytest.mark.skipif(not find_spec("xdist"), reason="pytest-xdist is not installed")
def test_a_process_that_ends_is_no_clean_verdict() -> None:
    """pytest-xdist would start another one, and wait for it for ever."""
    adapter = f"{ADAPTERS}:ends_in_a_call"
    words = ["conformance/test_probes.py", "-k", "test_constant", "-n", "2"]
    command = [sys.executable, "-m", "pytest", *words, "--implementation", adapter]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    verdict = section(run.stdout, adapter)
    assert run.returncode == 1
    assert re.search(r"test_probes\.py::\S+: the process ended in this test$", verdict, re.M)
    assert f"{adapter}: NOT judged in full." in verdict


def test_a_broken_adapter_is_reported_once() -> None:
    adapter = f"{ADAPTERS}:last_logits_only"
    run = judge("conformance", "--implementation", adapter)
    verdict = section(run.stdout, adapter)
    assert run.returncode == 1
    assert (
        verdict.count("the adapter can't load a blank checkpoint and give three tokens' logits")
        == 1
    )
    assert "expected floating point [batch, time, vocab_size]" in verdict
    assert "FAILED" not in verdict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--implementation", "nowhere.py"], "--implementation nowhere.py: "),
        (
            ["--implementation", "no_such_module"],
            "--implementation no_such_module: No module named",
        ),
        (["--implementation", f"{ADAPTERS}:nobody"], "has no function nobody()"),
        (["--device", "nonsense"], "--device='nonsense': this torch has no such device\n"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    ],
)
def test_bad_options_are_usage_errors(arguments: list[str], message: str) -> None:
    run = judge("conformance", *arguments)
    assert run.returncode == 4
    assert message in run.stderr


def test_list_requirements_gives_them_all() -> None:
    run = judge("conformance", "--list-requirements")
    assert run.returncode == 0
    assert [
        line.split()[0] for line in run.stdout.splitlines() if not line.startswith(" ")
    ] == list(REQUIREMENTS)


def test_every_requirement_has_a_test_and_every_test_a_requirement() -> None:
    class Collector:
        items: list[pytest.Item] = []  # noqa: RUF012

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.items = session.items

    collector = Collector()
    everything = [
        "--collect-only",
        "-q",
        "-m",
        "slow or not slow",
        "--checkpoint=any",
        "-p",
        "no:cacheprovider",
    ]
    assert (
        pytest.main([str(ROOT / "conformance"), *everything], plugins=[collector])
        == pytest.ExitCode.OK
    )
    # A test without a requirement is refused at collection, by conformance/conftest.py.
    assert {
        mark.args[0] for item in collector.items for mark in item.iter_markers("requirement")
    } == set(REQUIREMENTS)


def test_hugging_face_passes_all_that_applies(run_on_hugging_face: Run) -> None:
    run = run_on_hugging_face
    verdict = section(run.stdout, "huggingface")
    assert run.returncode == 0, run.stdout[-5000:]
    assert "huggingface: no deviation from GPT-2 found" in verdict
    assert "generation.window: not applicable\n    transformers ends at n_positions" in verdict
    assert "text.encode: not applicable\n    the adapter has no encode()" in verdict
    assert re.search(r"\b6 not applicable\.$", verdict, re.M), (
        "the rest of text beside these two, and no other"
    )
