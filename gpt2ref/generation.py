"""The generation loop: token ids in, new token ids out."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .arguments import check_options, check_rows, check_vocab_size
from .config import EOS
from .model import GPT2, KVCache
from .sampling import check_chosen, choose


def sample(
    model: GPT2,
    token_ids: Sequence[Sequence[int]] | Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
    eos_token_id: int | None = EOS,
    vocab_size: int | None = None,
) -> list[list[int]]:
    """Continue each row of token ids; return each row's new ids, without the EOS that ended it.

    Rows may differ in length, and each stops by itself: at `eos_token_id` (None: never) or after
    `max_new_tokens`. A row without tokens starts from `<|endoftext|>`. Temperature 0 is greedy;
    `top_k=None` is no restriction.

    Only ids below `vocab_size` are drawn (default: all of the model's). The logits of the others,
    such as padding and added tokens, are cut off before top-k, so they change no probability. The
    prompt may have any of the model's ids.

    Row r draws one uniform number a step from a generator seeded with `seed + r`. So it gets the
    tokens that it gets alone with that seed, whatever its neighbours do (up to rounding of the
    logits). `seed=None` takes a fresh seed. The global random state is neither read nor changed.

    Past `n_positions` the last `n_positions` tokens stay in view, their positions counted from 0
    again. Each token then moves all positions, so a step costs a full forward pass.

    Raises TypeError or ValueError, naming the argument, before any work is done.
    """
    if model.device.type == "meta":
        raise ValueError("model: its weights are on the device meta, expected one with numbers")
    rows = check_rows(token_ids, model.config.vocab_size)
    options = check_options(max_new_tokens, temperature, top_k, seed)
    vocab_size = check_vocab_size(vocab_size, model.config.vocab_size)
    new: list[list[int]] = [[] for _ in rows]
    for step in sample_steps(model, rows, *options, eos_token_id, vocab_size):
        for row, token_id in step.items():
            new[row].append(token_id)
    return new


@torch.inference_mode()
def sample_steps(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int | None,
    eos_token_id: int | None,
    vocab_size: int | None = None,
) -> Iterator[dict[int, int]]:
    """Yield, after each step, row number -> new token of every row that goes on.

    Expects checked arguments and no empty prompt. Raises ValueError if logits choose no token.
    """
    if not (rows := [list(prompt) for prompt in prompts]):
        return
    running = list(range(len(rows)))  # the rows that go on
    first = secrets.randbits(63) if seed is None else seed
    seeds = [first + r for r in running]
    steps = make_steps(model, seeds, max_new_tokens, temperature, top_k, vocab_size)
    for _ in range(max_new_tokens):
        token_ids = steps.next_tokens(rows, running)
        check_chosen({row: token_ids[row] for row in running})
        running = [row for row in running if token_ids[row] != eos_token_id]
        if not running:
            return
        for row in running:
            rows[row].append(token_ids[row])
        yield {row: token_ids[row] for row in running}


class DecodeSteps:
    """The decode steps of one batch: the model's forward pass with a cache, then the sampler."""

    def __init__(
        self,
        model: GPT2,
        seeds: list[int],
        n_steps: int,
        temperature: float,
        top_k: int | None,
        vocab_size: int | None = None,
    ) -> None:
        self.model = model
        self.generators = [random.Random(seed) for seed in seeds]  # one for each row
        self.n_steps, self.temperature, self.top_k = n_steps, temperature, top_k
        self.vocab_size = vocab_size or model.config.vocab_size
        self.cache: KVCache | None = None

    def next_tokens(self, rows: list[list[int]], running: list[int]) -> list[int]:
        """Choose the next token of each row, given all its tokens so far; -1 if none can be.

        What is returned for a row that is not in `running` means nothing.
        """
        n_positions = self.model.config.n_positions
        overflows = any(len(rows[row]) > n_positions for row in running)
        if self.cache is None:
            capacity = min(n_positions, max(map(len, rows)) + self.n_steps)
            self.cache = self.model.make_cache(len(rows), capacity)
        if max(self.cache.lengths) == 0 or overflows:
            logits = self.prefill([row[-n_positions:] for row in rows], self.cache)
        else:
            # A row that has ended is fed its last token again, in the same place.
            self.cache.lengths = [min(len(row), n_positions) - 1 for row in rows]
            logits = self.feed([row[-1] for row in rows], self.cache)
        # The CPU chooses, since not every device has float64.
        logits, uniform = logits.cpu()[:, : self.vocab_size], draw_uniform(self.generators, 1)
        return self.choose(logits, uniform[:, 0]).tolist()

    def prefill(self, rows: list[list[int]], cache: KVCache) -> Tensor:
        return prefill(self.model, rows, cache)

    def feed(self, token_ids: list[int], cache: KVCache) -> Tensor:
        """Feed each row one more token, [batch]: logits of its next one [batch, vocab]."""
        return self.model(torch.tensor(token_ids, device=self.model.device)[:, None], cache)[:, -1]

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Choose one token a row: [batch, vocab], float64 [batch] -> int64 [batch]."""
        return choose(logits, uniform, temperature=self.temperature, top_k=self.top_k)


# `sample_steps` makes its steps with this. `gpt2ref/__init__.py` puts `fast.make_steps` here, which
# returns a subclass that is faster for the model's device.
make_steps: Callable[..., DecodeSteps] = DecodeSteps


def prefill(model: GPT2, rows: list[list[int]], cache: KVCache) -> Tensor:
    """Feed rows of different lengths at once, in place of what the cache holds.

    Returns the logits after each row's last token, [batch, vocab].
    """
    lengths = [len(row) for row in rows]
    # Shorter rows are padded on the right. No token sees what follows it, so any id will do.
    padded = [row + [0] * (max(lengths) - len(row)) for row in rows]
    cache.lengths = [0] * len(rows)
    hidden = model.transformer(torch.tensor(padded, device=model.device), cache)
    cache.lengths = lengths
    cache.forget_beyond(lengths)
    last = torch.tensor(lengths, device=model.device) - 1
    return model.head(hidden[torch.arange(len(rows), device=model.device), last])


def draw_uniform(generators: list[random.Random], n_steps: int) -> Tensor:
    """Draw the next numbers of each row's generator: float64 [batch, n_steps] in [0, 1)."""
    numbers = [[generator.random() for _ in range(n_steps)] for generator in generators]
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")  # whatever the default is
