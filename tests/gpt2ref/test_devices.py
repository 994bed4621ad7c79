"""Which device is chosen, and what is said of one that is not there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2ref import generate, load_checkpoint, stream
from gpt2ref.cli import main
from gpt2ref.devices import default_device
from gpt2ref.text import load_model
from tests.shared.mps_emulation import emulated_mps

ABSENT = ["cuda:99", "xpu", "hip", "nonsense", "", "cuda:x"]
ABSENT += ["cuda"] if not torch.cuda.is_available() else []
ABSENT += ["mps"] if not torch.backends.mps.is_available() else []
PROMPT = "Once upon a time"


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [
        (True, True, "cuda"),
        (True, False, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ],
)
def test_the_default_is_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == chosen


def test_a_checkpoint_is_loaded_onto_the_default_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_model(folder, None, None).device == torch.device("cpu")
    with emulated_mps():
        assert load_model(folder, None, None).device == torch.device("mps", 0)
        assert load_model(folder, "cpu", None).device == torch.device("cpu")


@pytest.mark.parametrize("device", ABSENT)
def test_a_device_that_is_not_there_is_named_in_one_line(
    folder: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = [
        lambda: load_checkpoint(folder, device=device),
        lambda: generate(PROMPT, folder, device=device),
        lambda: stream(PROMPT, folder, device=device),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"^device='{device}': ") as caught:
            call()
        message = str(caught.value)
        assert message.startswith(f"device='{device}': this torch has no such device")
        assert len(message) < 240
        assert "\n" not in message
        assert caught.value.__suppress_context__  # torch's own may have 7,000 characters
    with pytest.raises(SystemExit, match=r"^2$"):
        main([PROMPT, "--model", str(folder), "--device", device])
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


def test_the_meta_device_generates_no_text(folder: Path) -> None:
    assert load_checkpoint(folder, device="meta").device == torch.device("meta")
    for call in (generate, stream):
        with pytest.raises(ValueError, match=r"^device='meta': it keeps no weights"):
            call(PROMPT, folder, device="meta")
        with pytest.raises(ValueError, match=r"^device='meta': it keeps no weights"):
            call(PROMPT, load_checkpoint(folder, device="meta"))
