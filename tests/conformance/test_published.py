"""The checks against published outputs. Outputs of made-up weights replace them here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance import test_parity, test_sampling
from conformance.adapters.adapter import Adapter
from conformance.checkpoints.tensors import SMALL, far_below_zero, trained_like, write_checkpoint
from conformance.defects.complete import CompleteGPT2, restricted
from conformance.judging import published
from conformance.outcomes import Failure, NotApplicable
from gpt2ref import PUBLISHED_CONFIGS, GPT2Config, decode, encode, load_checkpoint, sample

CONFIG = GPT2Config(n_positions=40, n_embd=16, n_layer=2, n_head=2)


def test_the_published_figures_are_of_texts_and_tokens() -> None:
    logits = published.last_logits()
    assert len(logits) == 5
    for text, some in logits.items():
        assert decode(encode(text)) == text
        assert 60 < len(some) <= 71
        assert all(0 <= token < 50257 and -200 < logit < -30 for token, logit in some.items())
    prompt, continuation = published.THE_DOG
    assert decode(prompt) == "The dog"
    assert decode(continuation).startswith(
        " was found in a field near the intersection of West and West Streets."
    )


def test_the_real_weights_are_recognised_by_their_first_numbers() -> None:
    def model(*first: float, config: GPT2Config = PUBLISHED_CONFIGS["gpt2"]) -> Any:
        return SimpleNamespace(
            config=config,
            transformer=SimpleNamespace(wte=SimpleNamespace(weight=torch.tensor([first]))),
        )

    assert published.is_gpt2_124m(model(-0.11010301, -0.03926672, 0.03310751))
    assert published.is_gpt2_124m(
        model(*torch.tensor([-0.1101, -0.0393, 0.0331]).bfloat16().tolist())
    )
    assert not published.is_gpt2_124m(model(-0.11010301, -0.03926672, 0.04310751))
    assert not published.is_gpt2_124m(
        model(-0.1101, -0.0393, 0.0331, config=PUBLISHED_CONFIGS["gpt2-medium"])
    )


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a checkpoint of made-up weights, and replace the published outputs by theirs."""
    tensors = far_below_zero(trained_like(CONFIG, seed=0))
    folder = write_checkpoint(tmp_path, CONFIG, tensors)
    model = load_checkpoint(folder)
    texts = ["The dog", "As the spaceship was approaching the"]
    last = [model(torch.tensor([encode(text)]))[0, -1] for text in texts]
    assert max(logits.max().item() for logits in last) < -80
    known = {
        text: {token: logits[token].item() for token in range(0, 50257, 997)}
        for text, logits in zip(texts, last, strict=True)
    }
    prompt = encode(texts[0])
    [continuation] = sample(model, [prompt], max_new_tokens=8, temperature=0.0)
    monkeypatch.setattr(published, "is_gpt2_124m", lambda model: model.config == CONFIG)
    monkeypatch.setattr(published, "last_logits", lambda: known)
    monkeypatch.setattr(published, "THE_DOG", (prompt, continuation))
    return SimpleNamespace(config=SimpleNamespace(option=SimpleNamespace(checkpoint=str(folder))))


@pytest.mark.parametrize("name", ["gpt2ref", "huggingface"])
def test_right_implementations_give_the_published_outputs(given: Any, name: str) -> None:
    adapter = Adapter(name, "cpu", torch.float32)
    test_parity.test_published_outputs(adapter, given)
    test_parity.test_published_continuation(adapter, given)


def test_other_outputs_fail(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = Adapter("gpt2ref", "cpu", torch.float32)
    [text, *_] = published.last_logits()
    logits = published.last_logits()[text]
    monkeypatch.setattr(
        published, "last_logits", lambda: {text: logits | {997: logits[997] + 0.01}}
    )
    with pytest.raises(
        Failure, match=r"published logits after 'The dog': token 1 .* times the allowed"
    ):
        test_parity.test_published_outputs(adapter, given)
    prompt, continuation = published.THE_DOG
    monkeypatch.setattr(
        published, "THE_DOG", (prompt, [*continuation[:-1], (continuation[-1] + 1) % 50257])
    )
    with pytest.raises(Failure):
        test_parity.test_published_continuation(adapter, given)


def test_other_weights_are_not_compared(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, SMALL, trained_like(SMALL, seed=0))
    request: Any = SimpleNamespace(
        config=SimpleNamespace(option=SimpleNamespace(checkpoint=str(folder)))
    )
    with pytest.raises(NotApplicable, match="not the published 124M weights"):
        test_parity.test_published_outputs(Adapter("gpt2ref", "cpu", torch.float32), request)


class Unshifted(CompleteGPT2):
    """A softmax that does not subtract the largest score first, which is right near zero."""

    def probabilities(self, logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
        powers = (restricted(logits, top_k) / temperature).exp()
        return powers / powers.sum(-1, keepdim=True)


def test_a_softmax_that_underflows_at_logits_of_that_size_is_caught(tmp_path: Path) -> None:
    def write(name: str, config: GPT2Config, make: Any) -> Path:
        return write_checkpoint(tmp_path / name, config, make())

    adapter = Adapter("conformance.defects.complete", "cpu", torch.float32)
    test_sampling.test_distribution_far_below_zero(adapter, write)
    adapter._load = Unshifted.load  # type: ignore[assignment]
    with pytest.raises(Failure):
        test_sampling.test_distribution_far_below_zero(adapter, write)
