"""Adapters that no other test runs: other engines, and other modes of gpt2ref and transformers.

An adapter whose package is not installed has no test here. To list the tests:

    pytest tests/conformance/test_adapters.py -v
"""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.shared.judging import judge

ALWAYS = ("gpt2ref:load_uncached", "huggingface:load_eager")
COMPILED = ("gpt2ref:load_compiled", "huggingface:load_compiled") if shutil.which("g++") else ()
# These trace and compile each checkpoint anew, which takes seconds.
SLOW = ("huggingface:load_compiled",)
# Package -> the versions that have what the adapter uses, and the adapters.
PEERS = {
    "ctranslate2": (range(4, 5), ["conformance.adapters.ctranslate2"]),
    "llama-cpp-python": (range(1), ["conformance.adapters.llama_cpp"]),
    "transformer_lens": (
        range(2, 4),
        [f"conformance.adapters.transformer_lens{name}" for name in ("", ":load_uncached")],
    ),
}
# TransformerLens 3.9 fails these in its loop with a cache and without a tokenizer: see the adapter.
KNOWN = {"conformance.adapters.transformer_lens": {"eos.middle", "eos.last-step", "eos.never"}}


def installed(package: str, majors: range) -> bool:
    try:
        return int(version(package).split(".")[0]) in majors
    except PackageNotFoundError:
        return False


FOUND = [
    name
    for package, (majors, names) in PEERS.items()
    if installed(package, majors)
    for name in names
]
ALL = (*ALWAYS, *COMPILED, *FOUND)


@pytest.fixture(scope="module")
def verdicts() -> str:
    few = "test_activation_curve or test_middle"
    more = "test_constant or test_last_step or test_never and 9 or test_per_row and first-row"
    quick = [name for name in ALL if name not in SLOW]
    return verdicts_on(quick, f"{few} or {more}") + verdicts_on(
        [name for name in SLOW if name in ALL], few
    )


def verdicts_on(adapters: list[str], some: str) -> str:
    if not adapters:
        return ""
    files = ("conformance/test_probes.py", "conformance/test_eos.py")
    return judge(*files, "-k", some, *(f"--implementation={name}" for name in adapters)).stdout


@pytest.mark.parametrize("adapter", ALL)
def test_probes_and_eos(verdicts: str, adapter: str) -> None:
    assert f" conformance of {adapter} " in verdicts, verdicts[-5000:]
    verdict = re.split(r"=+ conformance of ", verdicts.split(f" conformance of {adapter} ")[1])[0]
    known = KNOWN.get(adapter, set())
    assert set(re.findall(r"^(\S+): (?:FAILED|ERRORED|not applicable)$", verdict, re.M)) == known, (
        verdict
    )
    assert (
        f"{adapter}: {'NOT a right GPT-2' if known else 'no deviation from GPT-2 found'}."
        in verdict
    )
