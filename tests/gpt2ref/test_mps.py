"""Every way to use a model on a Mac's device, which is emulated: it has no float64."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from conformance.checkpoints.tensors import Tensors, write_checkpoint
from gpt2ref import (
    GPT2,
    GPT2Config,
    compile_step,
    from_hugging_face,
    from_tensors,
    generate,
    generation,
    load_checkpoint,
    sample,
    save_checkpoint,
    stream,
)
from gpt2ref.cli import main
from gpt2ref.sampling import choose
from tests.shared.mps_emulation import emulated_mps

PROMPT = "Once upon a time"
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.9, "top_k": 1000},
    {"temperature": 1.5},
    {"temperature": 1e-8, "top_k": 2},
]
N_TOKENS = 24  # beyond the model's 19 positions


@pytest.fixture(autouse=True)
def mps() -> Iterator[None]:
    with emulated_mps():
        yield


@pytest.fixture
def there(folder: Path) -> GPT2:
    return load_checkpoint(folder, device="mps")


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        *((torch.float32, each) for each in OPTIONS),
        (torch.bfloat16, OPTIONS[1]),
        (torch.float16, OPTIONS[2]),
    ],
    ids=str,
)
def test_the_text_is_the_cpu_s(folder: Path, dtype: torch.dtype, options: dict[str, Any]) -> None:
    options = options | {"max_new_tokens": N_TOKENS, "seed": 5}
    here = load_checkpoint(folder, dtype=dtype)
    for parameter in here.parameters():  # half precision rounds otherwise with another layout
        parameter.data = parameter.contiguous()
    prompts = [PROMPT, "", "The"]
    expected = generate(prompts, here, **options)
    assert generate(prompts, folder, device="mps", dtype=dtype, **options) == expected
    pieces = stream(PROMPT, folder, device="mps", dtype=dtype, **options)
    assert PROMPT + "".join(pieces) == expected[0]


def test_the_command_prints_the_same_text(
    folder: Path, model: GPT2, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = generate(PROMPT, model, max_new_tokens=9, seed=4) + "\n"
    arguments = [PROMPT, "--model", str(folder), "--max-new-tokens", "9", "--seed", "4"]
    assert main([*arguments, "--device", "mps"]) == 0
    assert capsys.readouterr().out == expected


def test_rows_of_token_ids_are_continued_as_on_the_cpu(there: GPT2, model: GPT2) -> None:
    rows = [[1, 2, 3], [], [4]]
    options: dict[str, Any] = {"max_new_tokens": N_TOKENS, "top_k": 40, "seed": 3}
    for prompts in (rows, torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5]]).to("mps")):
        given = prompts.tolist() if isinstance(prompts, torch.Tensor) else prompts
        assert sample(there, prompts, **options) == sample(model, given, **options)


def test_a_model_with_a_token_that_cannot_be_chosen_is_refused(there: GPT2) -> None:
    there.transformer.wte.weight[:] = float("nan")
    with pytest.raises(ValueError, match="no token can be chosen"):
        sample(there, [[1]], max_new_tokens=1)


def test_logits_in_pieces_are_the_cpu_s(there: GPT2, model: GPT2) -> None:
    token_ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    cache = there.make_cache(2)
    with torch.inference_mode():
        pieces = [there(piece.to("mps"), cache).cpu() for piece in token_ids.split(2, dim=1)]
        assert cache.keys.device == there.device == torch.device("mps", 0)
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(token_ids))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_checkpoint_loads_and_saves(
    folder: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    there = load_checkpoint(folder, device="mps", dtype=dtype)
    save_checkpoint(there, tmp_path)
    here = load_checkpoint(tmp_path)
    assert here.dtype == there.dtype
    for key, tensor in load_checkpoint(folder, dtype=dtype).state_dict().items():
        assert torch.equal(here.state_dict()[key], tensor), key


def test_float64_is_refused_in_one_line(
    tmp_path: Path, config: GPT2Config, tensors: Tensors, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(
        tmp_path / "double", config, {key: t.double() for key, t in tensors.items()}
    )
    message = "^device='mps': Cannot convert a MPS Tensor to float64 dtype .* use float32 instead.$"
    with pytest.raises(ValueError, match=message):
        generate(PROMPT, folder, device="mps")
    with pytest.raises(SystemExit):
        main([PROMPT, "--model", str(folder)])
    assert "device='mps': Cannot convert a MPS Tensor" in capsys.readouterr().err


def all_contiguous(model: GPT2) -> bool:
    return all(parameter.is_contiguous() for parameter in model.parameters())


def test_weights_are_contiguous_wherever_the_model_comes_from(
    folder: Path, config: GPT2Config, tensors: Tensors
) -> None:
    here = load_checkpoint(folder)
    assert not all_contiguous(here)  # the file's memory
    moved = [
        load_checkpoint(folder, device="mps"),
        from_tensors(tensors, config, device="mps", dtype=torch.bfloat16),
        from_tensors({key: tensor.to("mps") for key, tensor in tensors.items()}, config),
        from_hugging_face(GPT2LMHeadModel.from_pretrained(folder).to("mps")),
        here.to("mps"),
    ]
    for model in moved:
        assert all_contiguous(model)
        assert model.device == torch.device("mps", 0)
        assert sample(model, [[1]], max_new_tokens=2, seed=0)
    assert moved[0].cpu().device == torch.device("cpu")


def test_the_compiled_step_is_refused(
    there: GPT2, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"^model: on mps:0, expected the CPU"):
        compile_step(there)
    assert main([PROMPT, "--model", str(folder), "--device", "mps", "--compile"]) == 1
    assert "model: on mps:0, expected the CPU" in capsys.readouterr().err


def test_threads_generate_at_once(there: GPT2, model: GPT2) -> None:
    def run(seed: int) -> list[list[int]]:
        with emulated_mps():
            return sample(there, [[1, 2]], max_new_tokens=8, seed=seed)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(8)))
    assert found == [sample(model, [[1, 2]], max_new_tokens=8, seed=seed) for seed in range(8)]


def test_a_choice_on_the_device_would_be_seen(there: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose_there(_: Any, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        return choose(logits.to("mps"), uniform, temperature=1.0, top_k=None)

    monkeypatch.setattr(generation.DecodeSteps, "choose", choose_there)
    with pytest.raises(TypeError, match="doesn't support float64"):
        sample(there, [[1]], max_new_tokens=1)


def test_token_ids_on_the_cpu_would_be_seen(there: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT2, "device", torch.device("cpu"))
    with pytest.raises(RuntimeError, match="on the same device, but found at least two"):
        sample(there, [[1]], max_new_tokens=1)
