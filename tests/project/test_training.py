"""The training of the package's model: its text, its loss, and resuming after a stop."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from gpt2ref import EOS, GPT2Config, encode, load_checkpoint
from gpt2ref.tokenizer import VOCAB_SIZE
from training import evaluate, train
from training.corpus import abridge, finishing_windows, read_documents, split, training_windows
from training.curve import curve_svg
from training.ngram import KneserNey
from training.train import Vocabulary, backward, new_model

WORDS = [
    "the",
    "old",
    "king",
    "had",
    "three",
    "sons",
    "and",
    "a",
    "golden",
    "bird",
    "that",
    "sang",
    "at",
    "night",
]
SMALL = GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=2)


def tale(seed: int, sentences: int) -> str:
    generator = random.Random(seed)
    return "\n\n".join(
        [
            f"Tale {seed}",
            *(" ".join(generator.choices(WORDS, k=12)) + "." for _ in range(sentences)),
        ]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seeds in (("a.txt", range(10)), ("b.txt", range(10, 24))):
        tales = [tale(seed, 3 if seed % 2 else 60) for seed in seeds]
        (tmp_path / name).write_text(
            "".join(f"{text}\n<|endoftext|>\n" for text in tales), encoding="utf-8"
        )
    return tmp_path


def test_documents_are_read_and_every_twentieth_is_held_out(folder: Path) -> None:
    documents = read_documents(folder)
    assert documents == [tale(seed, 3 if seed % 2 else 60) for seed in range(24)]
    training, held_out = split(documents)
    assert held_out == [documents[0], documents[20]]
    assert sorted(training + held_out) == sorted(documents)


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n<|endoftext|>\n")
    with pytest.raises(ValueError, match=r"expected \.txt files with documents"):
        read_documents(tmp_path)


def test_windows_hold_all_of_the_long_documents_and_the_starts_of_the_short_ones() -> None:
    long, short = [tale(seed, 80) for seed in range(3)], [tale(seed, 2) for seed in range(3, 9)]
    windows = training_windows(long + short, 64, seed=0)
    assert {len(window) for window in windows} == {65}
    assert (
        windows
        == training_windows(long + short, 64, seed=0)
        != training_windows(long + short, 64, seed=1)
    )
    said = {tuple(window[i : i + 12]) for window in windows for i in range(54)}
    for document in long:  # but for what crosses from one window to the next, and the very last one
        tokens = encode(document)
        kept = sum(tuple(tokens[i : i + 12]) in said for i in range(len(tokens) - 12))
        assert kept > 0.75 * (len(tokens) - 12) - 64
    starts = [tuple(window[1:5] if window[0] == EOS else window[:4]) for window in windows]
    assert {tuple(encode(document)[:4]) for document in short} & set(starts)


def test_the_final_documents_end_within_a_window() -> None:
    documents = [tale(seed, 80) for seed in range(5)] + [tale(seed, 2) for seed in range(5, 9)]
    windows = finishing_windows(documents, 512, seed=0)
    assert windows
    assert {len(window) for window in windows} == {513}
    ends = {tuple(encode(document)[-8:]) for document in documents}
    for window in windows:
        # All but the last of the tales in a window are whole, so an EOS is where a document ends.
        places = [place for place, token in enumerate(window) if token == EOS and place]
        assert places
        assert all(tuple(window[place - 8 : place]) in ends for place in places)


def test_an_abridged_tale_has_no_title_begins_as_it_begins_and_ends_as_it_ends() -> None:
    document = tale(1, 60)
    paragraphs = document.split("\n\n")
    for seed in range(20):
        short = abridge(document, random.Random(seed))
        assert short is not None
        assert short[-1] == EOS
        assert len(short) < 430
        for length in (1, 10):
            assert short[:length] == encode("\n\n".join(paragraphs[1:]))[:length]
            assert short[-1 - length : -1] == encode(paragraphs[-1])[-length:]
    assert abridge(tale(1, 4), random.Random(0)) is None


def test_one_row_for_all_tokens_that_are_not_used_is_the_loss_over_the_whole_vocabulary() -> None:
    vocabulary = Vocabulary([tale(0, 5)])
    model = new_model(GPT2Config(len(vocabulary.bias), 16, 8, 1, 2), seed=0)
    torch.nn.init.normal_(model.transformer.wte.weight)  # logits of size 3: not all the same
    tokens = torch.tensor([encode(tale(0, 5))[:17], encode(tale(0, 5))[5:22]])
    found = backward(model, vocabulary.number[tokens], vocabulary.bias, chunk=7)
    whole = vocabulary.expand(model).float()
    assert whole.config.vocab_size == VOCAB_SIZE
    truth = F.cross_entropy(whole(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).item()
    # In bfloat16, logits of size 3 have errors of about 3 / 256; without the bias the loss would
    # be up to 10.8 lower.
    assert found == pytest.approx(truth, abs=0.05)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "TINY", SMALL)
    monkeypatch.setattr(train, "SAVED_EVERY", 3)

    def run(out: Path, *options: str) -> None:
        monkeypatch.setattr(
            sys,
            "argv",
            ["train", "--text", str(folder), "--out", str(out), "--device", "cpu", *options],
        )
        train.main()

    return run


def test_resumed_training_gives_the_same_model(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--epochs", "2", "--batch", "64", "--warm-up", "2", "--finishing", "7"]
    run(tmp_path / "through", *options)
    losses = (tmp_path / "through/losses.csv").read_text().splitlines()
    assert len(losses) > 9, "too short to be stopped"

    take_step, steps = train.Training.take_step, itertools.count(1)

    def stop_at_five(training: train.Training) -> None:
        if next(steps) == 5:
            raise KeyboardInterrupt
        take_step(training)

    monkeypatch.setattr(train.Training, "take_step", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", *options)
    assert not (tmp_path / "stopped/model").exists()
    run(tmp_path / "stopped", *options)
    for name in ("losses.csv", "losses.svg", "model/model.safetensors", "model/config.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "through" / name
        ).read_bytes()
    with pytest.raises(ValueError, match=r"state\.pt: was begun with .*'batch': 64"):
        run(
            tmp_path / "stopped",
            "--epochs",
            "2",
            "--batch",
            "32",
            "--warm-up",
            "2",
            "--finishing",
            "7",
        )


def test_the_loss_falls_and_the_model_loads_in_both_libraries(run, tmp_path: Path) -> None:
    run(
        tmp_path / "out",
        "--epochs",
        "4",
        "--batch",
        "16",
        "--warm-up",
        "2",
        "--learning-rate",
        "0.01",
        "--finishing",
        "10",
    )
    losses = [
        float(line.split(",")[1])
        for line in (tmp_path / "out/losses.csv").read_text().splitlines()[1:]
    ]
    assert losses[-1] < losses[0] - 1
    ours = load_checkpoint(tmp_path / "out/model", dtype=torch.float32)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "out/model").float().eval()
    token_ids = torch.tensor([encode(tale(0, 1))[:16]])
    with torch.no_grad():
        torch.testing.assert_close(ours(token_ids), theirs(token_ids).logits)


def test_the_curve_is_drawn() -> None:
    svg = curve_svg([10 * 0.99**step + 3 for step in range(200)])
    assert svg.count("<polyline") == 2
    assert "nan" not in svg


def test_held_out_loss_is_that_of_the_model_token_by_token() -> None:
    model = new_model(GPT2Config(VOCAB_SIZE, 16, 8, 1, 2), seed=0).eval().requires_grad_(False)
    torch.nn.init.normal_(model.transformer.wte.weight)
    documents = [
        encode(tale(seed, 3))[:count]
        for seed, count in ((0, 1), (1, 15), (2, 16), (3, 17), (4, 40))
    ]
    least = most = 0.0
    for document in documents:
        tokens = [EOS, *document]
        for i in range(1, len(tokens)):
            # Each token is predicted from at least half a context, or from all earlier tokens.
            starts = range(max(0, i - 16), max(0, i - 8) + 1)
            losses = [
                -F.log_softmax(model(torch.tensor([tokens[start:i]]))[0, -1], -1)[tokens[i]].item()
                for start in starts
            ]
            least, most = least + min(losses), most + max(losses)
    count = sum(map(len, documents))
    assert least / count - 1e-5 <= evaluate.loss(model, documents) <= most / count + 1e-5
    assert most - least < 0.2 * least, "the bounds say nothing"


@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_probabilities_of_an_n_gram_model_are_probabilities(order: int) -> None:
    generator = random.Random(0)
    documents = [
        [generator.randrange(7) for _ in range(generator.randrange(1, 20))] for _ in range(30)
    ]
    model = KneserNey(documents, order, vocab_size=9, start=8)
    for context in ([], [1], [2, 3], [8], [0, 1, 2, 3, 4, 5], documents[0][:4]):
        probabilities = [model.probabilities([*context, token])[-1] for token in range(9)]
        assert min(probabilities) > 0
        assert sum(probabilities) == pytest.approx(1)


def test_kneser_ney_by_hand() -> None:
    """The documents are a b, a b, c b and c a. The probabilities are worked out on paper."""
    a, b, c = 0, 1, 2
    model = KneserNey([[a, b], [a, b], [c, b], [c, a]], 2, vocab_size=4, start=3)
    # Bigrams (^ start): ^a 2, ^c 2, ab 2, cb 1, ca 1: two occur once, three twice, so
    # D = 2 / (2 + 2 * 3) = 1/4. Unigrams count what they follow: a 2 (^, c), b 2 (a, c), c 1 (^):
    # one counts 1, two count 2, so D = 1 / (1 + 2 * 2) = 1/5.
    unigram = {a: (2 - 0.2) / 5 + 0.2 * 3 / 5 / 4, b: (2 - 0.2) / 5 + 0.2 * 3 / 5 / 4}
    expected = [
        (2 - 0.25) / 4 + 0.25 * 2 / 4 * unigram[a],
        (2 - 0.25) / 2 + 0.25 * 1 / 2 * unigram[b],
    ]
    np.testing.assert_allclose(model.probabilities([a, b]), expected)
