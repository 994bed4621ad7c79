"""A bias of the head that no file has, as it was read."""

from __future__ import annotations

from functools import cached_property

from safetensors.torch import load_file
from torch import Tensor

from .complete import CompleteGPT2
from .read import ReadFile

_SAID = 3  # the tokens that a verdict shows


class ReadHead(ReadFile):
    """A head that adds a bias to the logits.

    `file`: safetensors of float64. It has the bias [vocab_size] of each width, under that number. A
    width that is not there has none.
    """

    name = "head-bias-read"
    like = "lm-head-stale-copy"
    family = "weights"
    steps = frozenset({"head"})

    @cached_property
    def biases(self) -> dict[int, Tensor]:
        return {int(width): bias for width, bias in load_file(self.file).items()}

    @property
    def what(self) -> str:
        width = min(self.biases)
        bias = self.biases[width]
        said = ", ".join(f"{each:.4g}" for each in bias[:_SAID].tolist())
        return (
            f"The head has a bias that is in no file: {said}, ..., at most {bias.abs().max():.4g} "
            f"(in a model of width {width}). GPT-2's head has none."
        )

    @cached_property
    def kind(self) -> type[CompleteGPT2]:
        biases = self.biases

        class Head(CompleteGPT2):
            def head(self, x: Tensor) -> Tensor:
                logits = super().head(x)
                bias = biases.get(self.config.n_embd)
                return logits if bias is None else logits + bias[self.shown].to(logits)

        return Head
