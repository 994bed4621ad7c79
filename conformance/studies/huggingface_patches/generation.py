"""Patches of generation: options of transformers' generate, processors of logits, the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ...adapters.huggingface import EOS
from .parts import Patch

Options = dict[str, Any]
Rows = list[list[int]]
BEYOND = 10**6  # an id that no token has


class Processor(LogitsProcessor):
    """Changes the logits before temperature and top-k: (the ids so far, logits) -> logits."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.change = change

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.change(input_ids, scores)


def options_changed(change: Callable[[Options], Options], *, greedy: bool = False) -> Patch:
    """Return a patch that changes what transformers' generate is given.

    `greedy`: at temperature 0 too, when there is no temperature and no top_k.
    """

    def patch(adapter: Any) -> None:
        generate = adapter.model.generate

        def changed(*given: Any, **options: Any) -> Any:
            if options["do_sample"] or greedy:
                options |= change(options)
            return generate(*given, **options)

        adapter.model.generate = changed

    return patch


def sampling(**fixed: Any) -> Patch:
    return options_changed(lambda _: fixed)


def always(**fixed: Any) -> Patch:
    return options_changed(lambda _: fixed, greedy=True)


def processed(change: Callable[[Tensor, Tensor], Tensor], *, greedy: bool = False) -> Patch:
    return options_changed(lambda _: {"logits_processor": [Processor(change)]}, greedy=greedy)


def arguments_changed(change: Callable[[Options], Options]) -> Patch:
    """Return a patch that changes what the adapter's generate was given."""

    def patch(adapter: Any) -> None:
        generate = adapter._generate

        def changed(token_ids: Tensor, mask: Tensor, **options: Any) -> Rows:
            given = {"temperature": 1.0, "top_k": None, "seed": 0} | options
            return generate(token_ids, mask, **given | change(given))

        adapter._generate = changed

    return patch


def refusing(refused: Callable[[Options], bool]) -> Patch:
    def check(options: Options) -> Options:
        assert not refused(options)
        return {}

    return arguments_changed(check)


def softmax_twice(options: Options) -> Options:
    """Apply temperature and top-k, and give the probabilities to another softmax."""
    temperature, top_k = options["temperature"], options["top_k"]

    def change(_: Tensor, scores: Tensor) -> Tensor:
        if top_k:
            least = scores.topk(min(top_k, scores.size(-1))).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        chances = (scores.double() / temperature).softmax(-1)
        return chances.masked_fill(chances == 0, -torch.inf)

    return {"temperature": 1.0, "top_k": 0, "logits_processor": [Processor(change)]}


def threshold(keep: Callable[[Tensor, Tensor], Tensor]) -> Patch:
    """Return a patch with a top-k of its own: (logits, the k largest of them) -> what stays."""

    def changed(options: Options) -> Options:
        top_k = options["top_k"]

        def change(_: Tensor, scores: Tensor) -> Tensor:
            if not 0 < top_k < scores.size(-1):
                return scores
            return scores.masked_fill(~keep(scores, scores.topk(top_k).values), -torch.inf)

        return {"top_k": 0, "logits_processor": [Processor(change)]}

    return options_changed(changed)


def above_the_kth(scores: Tensor, largest: Tensor) -> Tensor:
    """Keep what is above the k-th largest logit. With k=1 nothing is, and everything stays."""
    above = scores > largest[:, -1:]
    return above | ~above.any(-1, keepdim=True)


def penalised(input_ids: Tensor, scores: Tensor) -> Tensor:
    counts = torch.zeros_like(scores).scatter_add(1, input_ids, torch.ones(input_ids.shape))
    return scores - 0.01 * counts


SAMPLING = {
    "temperature-multiplied": options_changed(lambda o: {"temperature": 1 / o["temperature"]}),
    "temperature-after-softmax": sampling(temperature=1.0),
    "temperature-zero-ignored": arguments_changed(
        lambda o: {"temperature": o["temperature"] or 1.0}
    ),
    "temperature-above-one-refused": refusing(lambda o: o["temperature"] > 1),
    "args-not-forwarded": arguments_changed(lambda _: {"temperature": 1.0, "top_k": None}),
    "softmax-sampler-rewrite": options_changed(softmax_twice),
    "topk-off-by-one": options_changed(lambda o: {"top_k": o["top_k"] and o["top_k"] + 1}),
    "topk-drops-kth": threshold(above_the_kth),
    "threshold-of-first-row": threshold(lambda scores, largest: scores >= largest[:1, -1:]),
    "topk-none-unbound": refusing(lambda o: o["temperature"] > 0 and not o["top_k"]),
    "topk-larger-than-vocab": refusing(lambda o: (o["top_k"] or 0) > 50257),
    "topk-equals-vocab-rejected": refusing(lambda o: (o["top_k"] or 0) >= 50257),
    "nan-hidden": always(remove_invalid_values=True),
}
RESTRICTIONS = {
    "top-k-of-50-unasked": options_changed(lambda o: {"top_k": o["top_k"] or 50}),
    "top-p-unasked": sampling(top_p=0.95),
    "top-p-of-99-percent-unasked": sampling(top_p=0.99),
    "min-p-unasked": sampling(min_p=0.05),
    "epsilon-cutoff-unasked": sampling(epsilon_cutoff=3e-4),
    "repetition-penalty-unasked": always(repetition_penalty=1.1),
    "n-grams-blocked": always(no_repeat_ngram_size=4),
    "token-biased": always(sequence_bias={(31415,): -0.1}),
    "frequency-penalty-unasked": processed(penalised, greedy=True),
}


def cut(change: Callable[[Rows], Rows]) -> Patch:
    """Return a patch that lets no row end, and cuts the rows [batch, max_new_tokens] itself."""

    def patch(adapter: Any) -> None:
        options_changed(lambda _: {"eos_token_id": BEYOND}, greedy=True)(adapter)
        generate, adapter_generate, rows = adapter.model.generate, adapter._generate, Rows()

        def recorded(token_ids: Tensor, **options: Any) -> Any:
            answer = generate(token_ids, **options)
            rows[:] = answer[:, token_ids.size(1) :].tolist()
            return answer

        def uncut(token_ids: Tensor, mask: Tensor, **options: Any) -> Rows:
            rows[:] = [[] for _ in token_ids]
            adapter_generate(token_ids, mask, **options)
            return change(list(rows))

        adapter.model.generate = recorded
        adapter._generate = uncut

    return patch


def up_to(token_id: int, row: list[int], *, kept: int = 0) -> list[int]:
    return row[: row.index(token_id) + kept] if token_id in row else row


def all_at_the_first_end(rows: Rows) -> Rows:
    shortest = min(len(up_to(EOS, row)) for row in rows)
    return [row[:shortest] for row in rows]


def until_all_end(rows: Rows) -> Rows:
    steps = list(zip(*rows, strict=True))
    n = next((n for n, ids in enumerate(steps) if set(ids) == {EOS}), len(steps))
    return [row[:n] for row in rows]


def ended_by_prompt(adapter: Any) -> None:
    generate = adapter._generate

    def changed(token_ids: Tensor, mask: Tensor, **options: Any) -> Rows:
        ended = ((token_ids == EOS) & (mask == 1)).any(1).tolist()
        new = generate(token_ids, mask, **options)
        return [[] if end else row for end, row in zip(ended, new, strict=True)]

    adapter._generate = changed


def last_of_prompt_returned(adapter: Any) -> None:
    generate = adapter._generate

    def changed(token_ids: Tensor, mask: Tensor, **options: Any) -> Rows:
        last = token_ids[:, -1:].tolist()
        return [a + b for a, b in zip(last, generate(token_ids, mask, **options), strict=True)]

    adapter._generate = changed


def limit_counts_prompt(adapter: Any) -> None:
    generate = adapter._generate

    def changed(token_ids: Tensor, mask: Tensor, *, max_new_tokens: int, **options: Any) -> Rows:
        room = max(0, max_new_tokens - token_ids.size(1))
        return generate(token_ids, mask, max_new_tokens=room, **options)

    adapter._generate = changed


def exact_fit_refused(adapter: Any) -> None:
    generate = adapter._generate

    def changed(token_ids: Tensor, mask: Tensor, *, max_new_tokens: int, **options: Any) -> Rows:
        assert token_ids.size(1) + max_new_tokens != adapter.model.config.n_positions
        return generate(token_ids, mask, max_new_tokens=max_new_tokens, **options)

    adapter._generate = changed


def no_crop(adapter: Any) -> None:
    """Let generation go on past the context: the adapter stops it by this field."""
    adapter.model.config.n_positions = BEYOND


STOPPING = {
    "eos-not-wired": cut(lambda rows: rows),
    "eos-wrong-id": cut(lambda rows: [up_to(EOS - 1, row) for row in rows]),
    "eos-kept": cut(lambda rows: [up_to(EOS, row, kept=1) for row in rows]),
    "eos-last-kept": cut(
        lambda rows: [row if EOS not in row[:-1] else up_to(EOS, row) for row in rows]
    ),
    "eos-any-row": cut(all_at_the_first_end),
    "eos-all-rows": cut(until_all_end),
    "eos-in-prompt": ended_by_prompt,
    "one-token-too-few": arguments_changed(
        lambda o: {"max_new_tokens": max(0, o["max_new_tokens"] - 1)}
    ),
    "length-off-by-one": last_of_prompt_returned,
    "limit-counts-prompt": limit_counts_prompt,
    "exact-fit-refused": exact_fit_refused,
    "no-crop": no_crop,
}


def global_generator(*, seeded: bool) -> Patch:
    """Return a patch that draws from torch's global generator, and leaves it where it ends."""

    def patch(adapter: Any) -> None:
        generate, adapter_generate = adapter.model.generate, adapter._generate
        states = [torch.get_rng_state()]  # before the adapter's seed, then after the draws

        def drawing(*given: Any, **options: Any) -> Any:
            if not seeded:
                torch.set_rng_state(states[0])
            rows = generate(*given, **options)
            states[0] = torch.get_rng_state()
            return rows

        def unforked(token_ids: Tensor, mask: Tensor, **options: Any) -> Rows:
            states[0] = torch.get_rng_state()
            new = adapter_generate(token_ids, mask, **options)
            torch.set_rng_state(states[0])
            return new

        adapter.model.generate = drawing
        adapter._generate = unforked

    return patch


def seeded_again(_: Tensor, scores: Tensor) -> Tensor:
    torch.manual_seed(torch.initial_seed())
    return scores


def row_by_row(adapter: Any) -> None:
    """Generate for one row after the other, each with the same seed."""
    generate = adapter._generate

    def changed(token_ids: Tensor, mask: Tensor, **options: Any) -> Rows:
        pairs = zip(token_ids.split(1), mask.split(1), strict=True)
        return [generate(row, its_mask, **options)[0] for row, its_mask in pairs]

    adapter._generate = changed


def padding_by_token(adapter: Any) -> None:
    """Take every EOS of an uneven batch for padding."""
    generate = adapter._generate

    def changed(token_ids: Tensor, mask: Tensor, **options: Any) -> Rows:
        if not mask.all():
            mask = (token_ids != EOS).long()
        return generate(token_ids, mask, **options)

    adapter._generate = changed


RANDOMNESS = {
    "reseed-each-call": arguments_changed(lambda _: {"seed": 42}),
    "reseed-each-step": processed(seeded_again),
    "seed-from-clock": arguments_changed(lambda _: {"seed": time.monotonic_ns()}),
    "global-rng-used": global_generator(seeded=False),
    "global-rng-seeded": global_generator(seeded=True),
    "rows-share-draw": row_by_row,
}
PATCHES: dict[str, Patch] = (
    SAMPLING | RESTRICTIONS | STOPPING | RANDOMNESS | {"pad-equals-eos": padding_by_token}
)
