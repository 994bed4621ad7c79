import io
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from gpt2ref import EOS, cli, encode, generate, load_checkpoint, save_checkpoint
from gpt2ref.cli import main
from gpt2ref.fast.compiled_step import CompiledStep
from gpt2ref.fast.library import library
from tests.shared.calls import recorded

PROMPT = "Once upon a time"
COMMAND = [sys.executable, "-m", "gpt2ref"]


def test_it_prints_the_prompt_and_its_continuation(folder, model, capsys):
    arguments = [
        PROMPT,
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--max-new-tokens",
        "12",
        "--seed",
        "4",
    ]
    assert main([*arguments, "--temperature", "0.9", "--top-k", "1000"]) == 0
    expected = generate(PROMPT, model, max_new_tokens=12, seed=4, temperature=0.9, top_k=1000)
    assert capsys.readouterr() == (expected + "\n", "")


def test_the_defaults_are_those_of_generate(folder, model, capsys):
    assert main(["--model", str(folder), "--device", "cpu", "--seed", "0"]) == 0
    assert capsys.readouterr().out == generate("", model, seed=0) + "\n"


def test_a_dtype_can_be_asked_for(folder, capsys):
    arguments = [
        PROMPT,
        "--model",
        str(folder),
        "--device",
        "cpu",
        "--seed",
        "0",
        "--max-new-tokens",
        "9",
    ]
    assert main([*arguments, "--dtype", "bfloat16"]) == 0
    assert (
        capsys.readouterr().out
        == generate(PROMPT, load_checkpoint(folder, dtype=torch.bfloat16), seed=0, max_new_tokens=9)
        + "\n"
    )


def test_as_a_command_it_writes_each_piece_as_it_comes(scripted):
    folder = scripted([*encode(" the 🧜"), EOS])
    command = [*COMMAND, "A", "--model", str(folder), "--temperature", "0"]
    result = subprocess.run(
        command, capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"}
    )
    assert result.stdout.decode() == "A the 🧜" + os.linesep
    assert result.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--max-new-tokens", "-1"], "max_new_tokens=-1"),
        (["--max-new-tokens", "ten"], "--max-new-tokens"),
        (["--temperature", "-1"], "temperature=-1.0"),
        (["--temperature", "nan"], "temperature=nan"),
        (["--temperature", "inf"], "temperature=inf"),
        (["--temperature", "hot"], "--temperature"),
        (["--top-k", "0"], "top_k=0"),
        (["--top-k", "1.5"], "--top-k"),
        (["--seed", "-1"], "seed=-1"),
        (["--dtype", "int8"], "--dtype"),
        (["--length", "5"], "--length"),
    ],
)
def test_bad_usage_exits_with_2_and_names_the_argument(folder, capsys, arguments, name):
    with pytest.raises(SystemExit, match=r"^2$"):
        main([PROMPT, "--model", str(folder), *arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: python -m gpt2ref")
    assert name in err.splitlines()[-1]


def test_a_vocabulary_that_is_not_gpt2s_is_bad_usage(tiny_folder, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main([PROMPT, "--model", str(tiny_folder)])
    assert "vocab_size=97" in capsys.readouterr().err


def test_a_missing_model_exits_with_1_and_one_line(tmp_path, capsys):
    assert main([PROMPT, "--model", str(tmp_path / "nothing")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m gpt2ref: ")
    assert str(tmp_path / "nothing") in err
    assert err.count("\n") == 1


def test_a_bad_checkpoint_exits_with_1_and_names_the_file(tmp_path, folder, capsys):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert main([PROMPT, "--model", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert str(tmp_path / "model.safetensors") in err


def test_a_device_that_is_not_there_is_bad_usage(folder, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main([PROMPT, "--model", str(folder), "--device", "cuda:99"])
    assert "device='cuda:99': " in capsys.readouterr().err


def test_compile_is_an_option_of_one_call(folder, monkeypatch, capsys):
    options = [PROMPT, "--model", str(folder), "--device", "cpu"]
    options += ["--max-new-tokens", "8", "--temperature", "0"]
    steps: list[tuple[Any, ...]] = []
    monkeypatch.setattr(CompiledStep, "__call__", recorded(CompiledStep.__call__, steps))
    library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main([*options, "--compile"]) == 1
    assert "no-such-compiler -O3" in capsys.readouterr().err
    assert main(options) == 0
    plain = capsys.readouterr().out
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    monkeypatch.delenv("CC")
    assert main([*options, "--compile"]) == 0
    assert capsys.readouterr().out == plain
    assert len(steps) == 7  # the first token is prefill's
    assert main(options) == 0
    assert len(steps) == 7


def test_weights_that_choose_no_token_exit_with_1(folder, tmp_path, capsys):
    model = load_checkpoint(folder)
    model.transformer.ln_f.bias[0] = float("nan")
    save_checkpoint(model, tmp_path)
    assert main([PROMPT, "--model", str(tmp_path), "--device", "cpu"]) == 1
    assert "logits: the largest one is not a finite number" in capsys.readouterr().err


def test_text_that_the_terminal_cannot_encode_is_not_bad_usage(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["Märchen", "--model", str(folder), "--max-new-tokens", "3", "--seed", "0"]) in (
        0,
        1,
    )
    assert "usage" not in capsys.readouterr().err


def test_ctrl_c_ends_the_line_and_exits_with_130(folder, monkeypatch, capsys):
    def interrupted(*_, **__):
        yield " there"
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "stream", interrupted)
    assert main([PROMPT, "--model", str(folder)]) == 130
    assert capsys.readouterr() == (PROMPT + " there\n", "")


def test_ctrl_c_while_the_model_is_loaded_exits_with_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "stream", interrupted)
    assert main([PROMPT]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments", [[PROMPT], ["--max-new-tokens", "0"]], ids=["text", "only the end of the line"]
)
def test_a_closed_pipe_ends_the_command_without_a_message(folder, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [*COMMAND, *arguments, "--model", str(folder)]
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        result = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, check=False, env=buffered
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")
