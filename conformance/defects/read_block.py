"""A block that no entry has: what its branches read, and what their output is added to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor

from .complete import CompleteGPT2
from .read import Read

_NORMS = {"attention": "ln_1", "mlp": "ln_2"}


@dataclass(frozen=True)
class Branch:
    """Attention or the MLP, and how the residual stream goes past it.

    `name`: attention or mlp. `norm`: where its norm is: `before` the branch, on its `output`, on
    the `sum`, or `none`. `reads` and `added_to` name streams: `x` is the block's input, `y` what
    the first branch has left, `h` what a branch reads. `added_to` may be `nothing`.
    """

    name: str
    norm: str
    reads: str
    added_to: str

    def formula(self, read: str) -> str:
        """Return what is computed. `read`: what the branch reads, in words."""
        norm = _NORMS[self.name]
        output = f"{self.name}({read})"
        output = f"{norm}({output})" if self.norm == "output" else output
        streams = {"h": f"{read} + ", "nothing": ""}
        total = streams.get(self.added_to, f"{self.added_to} + ") + output
        return f"{norm}({total})" if self.norm == "sum" else total

    def read(self, before: str) -> str:
        """Return what the branch reads, in words. `before`: what the first branch reads."""
        stream = before if self.reads == "h" else self.reads
        return f"{_NORMS[self.name]}({stream})" if self.norm == "before" else stream


@dataclass(frozen=True)
class ReadBlock(Read):
    """A block whose two branches are put together otherwise, as was read."""

    first: Branch
    second: Branch

    name = "block-read"
    like = "residual-from-normalised"
    family = "blocks"
    steps = frozenset({"block"})

    @property
    def specification(self) -> str:
        words = (
            (branch.name, branch.norm, branch.reads, branch.added_to)
            for branch in (self.first, self.second)
        )
        return f"{self.name}={'-'.join('.'.join(each) for each in words)}"

    @classmethod
    def of(cls, specification: str) -> ReadBlock:
        """Read what `specification` returns. Raises KeyError for anything else."""
        blocks = {block.specification: block for block in (RIGHT, *other_blocks())}
        return blocks[specification]

    @property
    def what(self) -> str:
        first = self.first.read("")
        second = self.second.read(first)
        return (
            "A block is none of those that are known. It computes "
            f"y = {self.first.formula(first)} and returns {self.second.formula(second)}."
        )

    @cached_property
    def kind(self) -> type[CompleteGPT2]:
        branches = self.first, self.second

        class Block(CompleteGPT2):
            def block(self, layer: int, x: Tensor, mask: Tensor) -> Tensor:
                streams = {"x": x}
                for branch in branches:
                    norm = partial(self.norm, name=f"h.{layer}.{_NORMS[branch.name]}")
                    read = streams[branch.reads]
                    streams["h"] = read = norm(read) if branch.norm == "before" else read
                    output = (
                        self.attention(layer, read, mask)
                        if branch.name == "attention"
                        else self.mlp(layer, read)
                    )
                    output = norm(output) if branch.norm == "output" else output
                    total = streams.get(branch.added_to, 0) + output
                    streams["y"] = norm(total) if branch.norm == "sum" else total
                return streams["y"]

        return Block


RIGHT = ReadBlock(Branch("attention", "before", "x", "x"), Branch("mlp", "before", "y", "y"))


def other_blocks() -> list[ReadBlock]:
    """Return all blocks but the right one, those first that differ from it in few places."""
    found = [
        ReadBlock(first, second)
        for names in (("attention", "mlp"), ("mlp", "attention"))
        for first, second in itertools.product(_firsts(names[0]), _seconds(names[1]))
    ]
    found.remove(RIGHT)
    return sorted(found, key=_differences)


def _firsts(name: str) -> Iterator[Branch]:
    for norm in ("before", "none", "output", "sum"):
        for added_to in ("x", "nothing", *(["h"] if norm == "before" else [])):
            yield Branch(name, norm, "x", added_to)


def _seconds(name: str) -> Iterator[Branch]:
    for norm, reads in itertools.product(("before", "none", "output", "sum"), "yx"):
        for added_to in ("y", "x", "nothing", *(["h"] if norm == "before" else [])):
            yield Branch(name, norm, reads, added_to)
    for added_to in ("y", "x", "nothing", "h"):  # one norm for both branches
        yield Branch(name, "none", "h", added_to)


def _differences(block: ReadBlock) -> int:
    return sum(
        getattr(branch, field) != getattr(right, field)
        for branch, right in ((block.first, RIGHT.first), (block.second, RIGHT.second))
        for field in ("name", "norm", "reads", "added_to")
    )
