"""Train the model of the package: `python -m training.train --text FOLDER --out FOLDER`.

Run again after a stop, it continues where it was. The recipe is GPT-2's at a small scale: AdamW, a
warm-up and a cosine, gradients clipped at 1, and no dropout, as no text is seen often. The tokens
that the text never uses share one row of the embedding. Their logits are then equal, so one logit,
raised by the logarithm of their number, stands for all of them. That gives the softmax over the
whole vocabulary for half the work.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2ref import GPT2, GPT2Config, save_checkpoint
from gpt2ref.config import EOS
from gpt2ref.tokenizer import VOCAB_SIZE, encode

from .corpus import finishing_windows, read_documents, split, training_windows
from .curve import curve_svg

# With a width of 128 the model has 15.4 MB in half precision, most of it the embedding.
TINY = GPT2Config(n_positions=512, n_embd=128, n_layer=6, n_head=4)
SAVED_EVERY = 50  # steps


@dataclass(frozen=True)
class Recipe:
    epochs: int = 3
    # Steps after the epochs, on tales that end within a window, from a fifth of the learning rate
    finishing: int = 300
    batch: int = 8  # windows of n_positions tokens a step
    learning_rate: float = 3e-3
    warm_up: int = 100  # steps
    weight_decay: float = 0.1  # of matrices
    seed: int = 0


class Vocabulary:
    """Numbers the tokens that are used from 0 on, and gives all the others the next number."""

    def __init__(self, documents: list[str]) -> None:
        self.used = torch.tensor(sorted({EOS}.union(*(encode(document) for document in documents))))
        self.others = VOCAB_SIZE - len(self.used)
        self.number = torch.full([VOCAB_SIZE], len(self.used))  # token id -> its number
        self.number[self.used] = torch.arange(len(self.used))
        self.bias = torch.zeros(
            len(self.used) + 1
        )  # added to the logits: see the module's docstring
        self.bias[-1] = math.log(max(self.others, 1)) if self.others else -math.inf

    def expand(self, model: GPT2) -> GPT2:
        """Return the same model over the whole vocabulary, in half precision."""
        whole = GPT2(replace(model.config, vocab_size=VOCAB_SIZE))
        state = model.state_dict()
        state["transformer.wte.weight"] = state["transformer.wte.weight"][self.number]
        whole.load_state_dict(state)
        return whole.half()


def new_model(config: GPT2Config, seed: int) -> GPT2:
    """Return a model with GPT-2's initial weights: N(0, 0.02), and zeros for biases.

    The weights of c_proj, which add to the residual stream, are scaled by 1/sqrt(2 n_layer).
    """
    torch.manual_seed(seed)
    model = GPT2(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            added = name.endswith("c_proj.weight")
            torch.nn.init.normal_(
                parameter, std=0.02 / (math.sqrt(2 * config.n_layer) if added else 1)
            )
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return model


def backward(model: GPT2, windows: Tensor, bias: Tensor, chunk: int = 256) -> float:
    """Add the gradients of the mean loss over int [batch, time + 1]. Return it, in nats a token.

    The head takes `chunk` tokens at a time, as the logits of all would be hundreds of megabytes.
    """
    inputs, all_targets = windows[:, :-1], windows[:, 1:].flatten()
    with torch.autocast(windows.device.type, torch.bfloat16):
        hidden = model.transformer(inputs).flatten(0, 1)  # [batch * time, n_embd]
        leaf = hidden.detach().requires_grad_()
        total = 0.0
        for rows, targets in zip(leaf.split(chunk), all_targets.split(chunk), strict=True):
            logits = model.head(rows).float() + bias
            loss = F.cross_entropy(logits, targets, reduction="sum") / len(all_targets)
            loss.backward()
            total += loss.item()
    hidden.backward(leaf.grad)
    return total


class Training:
    """The state of the training, which one file holds."""

    def __init__(
        self, documents: list[str], config: GPT2Config, recipe: Recipe, device: torch.device
    ) -> None:
        self.documents, self.recipe = documents, recipe
        self.vocabulary = Vocabulary(documents)
        self.model = new_model(
            replace(config, vocab_size=len(self.vocabulary.bias)), recipe.seed
        ).to(device)
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        others = [p for p in self.model.parameters() if p.dim() != 2]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True
        )
        self.bias = self.vocabulary.bias.to(device)
        self.step = 0
        self.losses: list[float] = []  # of each step, nats a token
        self._pass: tuple[int, Tensor] | None = None  # the last pass: its number and its windows
        self.epoch_steps = len(self._windows(0)) // recipe.batch
        self.epochs_end = recipe.epochs * self.epoch_steps
        self.steps = self.epochs_end + recipe.finishing

    def take_step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        if self.step < self.epochs_end:
            number, place = divmod(self.step, self.epoch_steps)
        else:
            number, place = self.recipe.epochs, self.step - self.epochs_end
        windows = self._windows(number)
        chosen = torch.arange(place * self.recipe.batch, (place + 1) * self.recipe.batch) % len(
            windows
        )
        windows = windows[chosen].to(self.bias.device)
        loss = backward(self.model, windows, self.bias)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(loss)
        self.step += 1

    def _learning_rate(self) -> float:
        """Return the rate: a warm-up and a cosine over the epochs, then another cosine."""
        recipe, step = self.recipe, self.step
        if step < self.epochs_end:
            height, done = min(1.0, (step + 1) / recipe.warm_up), step / self.epochs_end
        else:
            height, done = 0.2, (step - self.epochs_end) / recipe.finishing
        return recipe.learning_rate * height * 0.5 * (1 + math.cos(math.pi * done))

    def _windows(self, number: int) -> Tensor:
        """Return the windows of an epoch or of the finishing, [windows, n_positions + 1].

        They are the same in every training. Their number differs a little from epoch to epoch, as
        the abridgements differ, but every epoch has as many steps as the first.
        """
        if self._pass is None or self._pass[0] != number:
            read = training_windows if number < self.recipe.epochs else finishing_windows
            windows = read(self.documents, self.model.config.n_positions, self.recipe.seed + number)
            self._pass = number, self.vocabulary.number[torch.tensor(windows)]
        return self._pass[1]

    def save(self, path: Path) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, map_location=self.bias.device, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(
                f"{path}: was begun with {state['recipe']}, not with {asdict(self.recipe)}"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses = state["step"], state["losses"]


def main() -> None:
    arguments = _parser().parse_args()
    recipe = Recipe(**{name: getattr(arguments, name) for name in asdict(Recipe())})
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    documents, _held_out = split(read_documents(arguments.text))
    training = Training(documents, TINY, recipe, torch.device(arguments.device))
    state = out / "state.pt"
    if state.exists():
        training.load(state)
        print(f"continues at step {training.step}")
    _train(training, state)
    with open(out / "losses.csv", "w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *enumerate(training.losses, 1)])
    (out / "losses.svg").write_text(curve_svg(training.losses), encoding="utf-8")
    shutil.rmtree(out / "model", ignore_errors=True)
    save_checkpoint(training.vocabulary.expand(training.model), out / "model")


def _train(training: Training, state: Path) -> None:
    """Take all steps that are left, and save the state from time to time and at the end."""
    began, first = time.monotonic(), training.step
    while training.step < training.steps:
        training.take_step()
        if training.step % SAVED_EVERY == 0 or training.step == training.steps:
            training.save(state)
            loss = mean(training.losses[-SAVED_EVERY:])
            seconds_a_step = (time.monotonic() - began) / (training.step - first)
            minutes = seconds_a_step * (training.steps - training.step) / 60
            step = f"step {training.step}/{training.steps}"
            print(f"{step}  loss {loss:.3f}  {minutes:.0f} min left", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description="Train the model of the package."
    )
    text = "folder of .txt files; a line <|endoftext|> ends a document"
    parser.add_argument("--text", type=Path, required=True, help=text)
    out = "folder for the state, the losses and the finished model/"
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in asdict(Recipe()).items():
        option, words = f"--{name.replace('_', '-')}", f"default: {default}"
        parser.add_argument(option, type=type(default), default=default, help=words)
    return parser


if __name__ == "__main__":
    main()
