"""Adapters that run a program: the protocol of docs/adapters.md, a GPT-2 in C, broken programs."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.adapters.adapter import Adapter
from conformance.adapters.command import Command, ProgramError, load_command
from conformance.adapters.forms import ProtocolError
from tests.shared.judging import ROOT, judge, section

PAGE = (ROOT / "docs/adapters.md").read_text(encoding="utf-8")
COMPILER = shutil.which("cc")
IDS = torch.tensor([[1, 2, 3]])

# A program that answers `load`, and any other request with what `answer` prints.
PROGRAM = """
import base64, json, os, sys, time
methods = ["generate", "prefill", "step"]
{answer}
for line in sys.stdin:
    request = json.loads(line)
    loading = request["method"] == "load"
    print(json.dumps({{"methods": methods}}) if loading else answer(request), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Command]:
    """Loads a checkpoint through the program PROGRAM with `answer`, or through `instead`."""

    def start(
        answer: str = "", *, instead: str | None = None, timeout: float = 20, **options: Any
    ) -> Command:
        path = tmp_path / "my program.py"
        path.write_text(
            PROGRAM.format(answer=answer) if instead is None else instead, encoding="utf-8"
        )
        return load_command(shlex.join([sys.executable, str(path)]), timeout=timeout)(
            "/no/checkpoint", **options
        )

    return start


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_a_gpt2_in_c_is_right_and_one_with_the_other_gelu_fails(tmp_path: Path) -> None:
    assert COMPILER
    adapters = []
    for name, flags in (("gpt2", []), ("gpt2-erf", ["-DDEFECT_GELU_ERF"])):
        executable = str(tmp_path / name)
        source = str(ROOT / "conformance/vectors/runners/c/gpt2.c")
        command = [COMPILER, "-std=c99", "-O3", *flags, "-o", executable, source, "-lm"]
        subprocess.run(command, check=True)
        adapters.append(f"command: {shlex.quote(executable)}")
    chosen = "small and float32-36 or orientation or test_missing or test_unexpected"
    chosen += " or test_branches or temperature_zero"
    run = judge(
        "conformance", "-k", chosen, *(f"--implementation={adapter}" for adapter in adapters)
    )
    right, wrong = (section(run.stdout, adapter) for adapter in adapters)
    assert f"{adapters[0]}: no deviation from GPT-2 found." in right, run.stdout[-5000:]
    assert "not applicable" not in right
    assert "parity.float32: FAILED\n" in wrong
    assert f"{adapters[1]}: NOT a right GPT-2." in wrong
    assert "errored" not in wrong

    (shown,) = re.findall(r"parity.float32: FAILED.*?again: pytest (.*?)\n", wrong, re.S)
    again = judge(*shlex.split(shown))
    assert "1 failed" in again.stdout.splitlines()[-1], again.stdout[-3000:]


# nanoGPT's model.py, with the reference's blocks.
NANOGPT = """
from dataclasses import dataclass
import gpt2ref
from torch import nn

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    bias: bool = False

class GPT(gpt2ref.GPT2):
    def __init__(self, c):
        sizes = c.vocab_size, c.block_size, c.n_embd, c.n_layer, c.n_head
        super().__init__(gpt2ref.GPT2Config(*sizes))
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, idx, targets=None):
        logits = super().forward(idx)
        return (logits, 0.0) if targets is not None else (logits[:, [-1]], None)
"""


def test_the_python_adapter_in_the_documentation_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (adapter,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def load(" in block
    ]
    assert len([line for line in adapter.splitlines() if line]) <= 15
    (tmp_path / "my_gpt2.py").write_text(adapter, encoding="utf-8")
    (tmp_path / "model.py").write_text(NANOGPT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = str(tmp_path / "my_gpt2.py")
    run = judge(
        "conformance",
        "-k",
        "small and float32-36 or keys and test_prefix or test_mask_buffers",
        "--implementation",
        path,
    )
    assert f"{path}: no deviation from GPT-2 found." in run.stdout, run.stdout[-3000:]


def test_the_messages_in_the_documentation_are_those_that_are_sent(tmp_path: Path) -> None:
    (block,) = re.findall(r"```\n(> .*?)```", PAGE, re.S)
    requests, answers = (re.findall(rf"^{sign} (.*)$", block, re.M) for sign in "><")
    (tmp_path / "conversation.py").write_text(
        f"""
import json, sys
for request, answer in {list(zip(requests, answers, strict=True))!r}:
    asked = sys.stdin.readline()
    same = json.loads(asked) == json.loads(request)
    print(answer if same else json.dumps({{"error": asked}}), flush=True)
""",
        encoding="utf-8",
    )
    load = load_command(shlex.join([sys.executable, str(tmp_path / "conversation.py")]))
    gpt2, ids = (
        load("/tmp/small", device="cpu", dtype=torch.float32),
        torch.tensor([[1, 0], [0, 0]]),
    )
    assert torch.equal(gpt2.logits(ids), torch.arange(8.0).reshape(2, 2, 2))
    assert gpt2.generate(ids, max_new_tokens=3, temperature=0.8, seed=7) == [[1, 1, 0], []]
    logits, cache = gpt2.prefill(ids[:1, :1])
    assert (logits.tolist(), cache) == ([[[0, 1]]], 0)
    logits, branch = gpt2.step(ids[:1, 1:], cache)
    assert (logits.tolist(), branch) == ([[[2, 3]]], 1)
    with pytest.raises(NotImplementedError, match=r"^one token at a time$"):
        gpt2.step(torch.tensor([[1, 1]]), cache)
    with pytest.raises(ProgramError, match=r"^token id 5, the vocabulary has 2$"):
        gpt2.logits(torch.tensor([[5]]))


@pytest.mark.parametrize("command", ["./no-such-program --flag", "README.md", "", "'unclosed"])
def test_a_missing_program_is_refused(command: str) -> None:
    with pytest.raises(
        pytest.UsageError, match=re.escape(f"--implementation command: {command}: ")
    ):
        Adapter(f"command: {command}", "cpu", torch.float32)


def test_only_methods_that_the_program_names_exist(program: Callable[..., Command]) -> None:
    gpt2 = program('methods.remove("generate")')
    assert [hasattr(gpt2, name) for name in ("generate", "prefill", "step", "state_dict")] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"device": "meta"}, "meta device"), ({"dtype": torch.float64}, "logits as float32")],
)
def test_requests_that_the_protocol_cannot_express_are_not_applicable(
    program: Callable[..., Command], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotImplementedError, match=reason):
        program(**options)


# The answer of a program, and the message about it.
BROKEN_LOGITS = {
    "print('Loading...'); return '{}'": r"not a JSON object on one line.*: 'Loading\.\.\.'",
    "return '[1, 2]'": r"not a JSON object on one line.*: '\[1, 2\]'",
    "sys.stdout.buffer.write(bytes([255, 10])); sys.stdout.flush()": "not a JSON object.*ufffd",
    "sys.exit(3)": r"the program ended \(exit status 3\) before 'logits' was answered",
    "os.abort()": r"the program ended \(killed by SIGABRT\) before 'logits' was answered",
    "print('{', end='', flush=True); os._exit(0)": (
        r"the program ended \(exit status 0\) before 'logits' was answered"
    ),
    "return '{}'": 'has "shape": None',
    "return json.dumps({'shape': [1, 5], 'logits': ''})": (
        r'has "shape": \[1, 5\], expected \[1, 3, vocab_size\]'
    ),
    "return json.dumps({'shape': [1, 1, 5], 'logits': ''})": (
        r'has "shape": \[1, 1, 5\], expected \[1, 3, vocab_size\]'
    ),
    "return json.dumps({'shape': [1, 3, 2], 'logits': 'AAAAAAAAAAAAAAAA'})": (
        "has 12 bytes of logits, expected 24"
    ),
    "return json.dumps({'shape': [1, 3, 1], 'logits': '----------------'})": "not base64",
    "return json.dumps({'shape': [1, 3, 1], 'logits': [0, 0, 0]})": "not base64",
}


@pytest.mark.parametrize("answer", BROKEN_LOGITS)
def test_a_broken_answer_is_reported_with_the_end_of_standard_error(
    program: Callable[..., Command], answer: str
) -> None:
    log = "for i in range(100): print('line', i, file=sys.stderr, flush=True)"
    gpt2 = program(f"def answer(request):\n    {log}\n    {answer}")
    with pytest.raises(ProtocolError, match=BROKEN_LOGITS[answer]) as caught:
        gpt2.logits(IDS)
    assert str(caught.value).endswith(
        "its standard error:\n" + "\n".join(f"line {i}" for i in range(94, 100))
    )
    assert "my program.py" in str(caught.value)


@pytest.mark.parametrize(
    "answer", ["{}", '{"token_ids": 1}', '{"token_ids": [1]}', '{"token_ids": [["1"]]}']
)
def test_a_broken_answer_to_generate(program: Callable[..., Command], answer: str) -> None:
    with pytest.raises(ProtocolError, match="the answer to 'generate' has \"token_ids\": "):
        program(f"answer = lambda request: {answer!r}").generate(IDS, max_new_tokens=2)


def test_a_broken_answer_to_load_and_to_prefill(program: Callable[..., Command]) -> None:
    with pytest.raises(
        ProtocolError, match=r"\['generates'\], expected a list of generate, prefill, step"
    ):
        program('methods = ["generates"]')
    with pytest.raises(ProtocolError, match="the answer to 'prefill' has no \"cache\""):
        program("answer = lambda request: '{}'").prefill(IDS)


def test_a_program_that_hangs_is_ended_with_its_child_processes(
    program: Callable[..., Command],
) -> None:
    gpt2 = program(
        "import subprocess\ndef answer(request): subprocess.run(['sleep', '60'])", timeout=1.0
    )
    for _ in range(2):
        with pytest.raises(ProtocolError, match=r"no answer to 'logits' within 1 s; .*\n\(empty\)"):
            gpt2.logits(IDS)


def test_a_program_that_reads_nothing_is_ended(program: Callable[..., Command]) -> None:
    gpt2 = program("print(json.dumps({'methods': []}), flush=True)\ntime.sleep(60)", timeout=1.0)
    with pytest.raises(ProtocolError, match="no answer to 'logits' within 1 s"):
        gpt2.logits(torch.zeros(100, 1000, dtype=torch.int64))  # more than a pipe holds


def test_megabytes_on_standard_error_do_not_block(program: Callable[..., Command]) -> None:
    logits = json.dumps({"shape": [1, 3, 1], "logits": base64.b64encode(bytes(12)).decode()})
    gpt2 = program(
        f"def answer(request):\n    sys.stderr.write('x' * 5_000_000)\n    return {logits!r}"
    )
    for _ in range(3):
        assert gpt2.logits(IDS).tolist() == [[[0.0], [0.0], [0.0]]]


@pytest.mark.parametrize(
    "ending",
    ["", "for _ in iter(lambda: 0, 1): time.sleep(1)"],
    ids=["at-the-end-of-input", "never"],
)
def test_a_program_is_ended_with_its_object(
    program: Callable[..., Command], ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conformance.adapters.command._GRACE", 0.5 if ending else 20.0)
    ended = (
        f"import atexit\natexit.register(lambda: open({str(tmp_path / 'ended')!r}, 'w').close())"
    )
    answer = f"answer = lambda request: json.dumps({{'error': str(os.getpid())}})\n{ended}"
    gpt2 = program(instead=f"{PROGRAM.format(answer=answer)}\n{ending}")
    with pytest.raises(ProgramError) as caught:
        gpt2.logits(IDS)
    process_id = int(str(caught.value))
    os.kill(process_id, 0)  # raises if there is no such process
    caught.value.__traceback__ = None
    del caught, gpt2
    with pytest.raises(ProcessLookupError):  # nor a zombie
        os.kill(process_id, 0)
    assert (tmp_path / "ended").exists() is not bool(ending)
