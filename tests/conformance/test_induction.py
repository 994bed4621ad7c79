"""The induction script catches a wrong mask, wrong positions and a wrong cache in generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance import test_generation as suite
from conformance.adapters import gpt2ref as reference
from conformance.adapters import huggingface
from conformance.checkpoints.scripts import INDUCTION, induction
from conformance.checkpoints.tensors import write_checkpoint
from conformance.defects import DEFECTS
from conformance.outcomes import Failure
from gpt2ref import KVCache
from tests.shared.blocks import block
from tests.shared.judged import judged_on_cpu
from tests.shared.masks import remasked

TOKENS = list(suite.WORDS.values())
Load = Callable[..., Any]


def masked_by(change: Callable[[Tensor], Tensor], layers: tuple[int, ...] = (0, 1)) -> Load:
    """Load the reference with another mask, bool [batch, 1, query, key], in these layers."""

    def changed(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return remasked(args, change)

    def load(checkpoint: str, **options: Any) -> reference.Reference:
        right = reference.load(checkpoint, **options)
        for layer in layers:
            block(right.model, layer).attn.register_forward_pre_hook(changed)
        return right

    return load


def one_too_many(mask: Tensor) -> Tensor:
    mask[..., 1:] |= mask[..., :-1].clone()
    return mask


def hidden_in_steps(keys: slice) -> Callable[[Tensor], Tensor]:
    def change(mask: Tensor) -> Tensor:
        if mask.size(-2) == 1:
            mask[..., keys] = False
        return mask

    return change


def newest_token_alone(checkpoint: str, **options: Any) -> Any:
    """Load the reference with a step whose cache is always empty."""
    right = reference.load(checkpoint, **options)
    transformer = right.model.transformer
    whole = transformer.forward

    def forgetful(token_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        return whole(token_ids, cache if token_ids.size(1) > 1 else None)

    transformer.forward = forgetful  # type: ignore[method-assign]
    return right


def first_row_for_all(checkpoint: str, **options: Any) -> Any:
    """Load the reference with a step in which every row has the first row's keys and values."""
    right = reference.load(checkpoint, **options)

    def change(_module: Any, args: tuple[Any, ...]) -> None:
        x, _positions, _mask, past = args
        if x.size(1) == 1:
            for each in past:  # [batch, capacity, n_head, head_width]
                each[1:] = each[0]

    for layer in range(right.model.config.n_layer):
        block(right.model, layer).attn.register_forward_pre_hook(change)
    return right


# Fault -> an adapter that has it, the row reported, and how many of its tokens are right.
FAULTS: dict[str, tuple[Load, int, int]] = {
    "no mask": (masked_by(torch.ones_like), 1, 0),
    "no mask in the first layer": (masked_by(torch.ones_like, layers=(0,)), 1, 0),
    "one position too many": (masked_by(one_too_many), 1, 0),
    "steps start at position 0": (DEFECTS["position-not-offset"].kind.load, 0, 1),
    "the newest token alone is fed": (newest_token_alone, 0, 1),
    "steps do not see the prompt": (masked_by(hidden_in_steps(slice(suite.PROMPT))), 0, 1),
    "steps do not see the token before": (masked_by(hidden_in_steps(slice(-2, -1))), 0, 1),
    "steps see the prompt alone": (masked_by(hidden_in_steps(slice(suite.PROMPT, -1))), 0, 4),
    "the first row's cache for all": (first_row_for_all, 1, 1),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("induction"), INDUCTION, induction(TOKENS))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_where_it_begins(
    checkpoint: Path, fault: str, temperature: float
) -> None:
    load, row, right = FAULTS[fault]
    with pytest.raises(Failure) as failure:
        suite.test_induction(judged_on_cpu(load(str(checkpoint))), temperature)
    where = f"in row {row} at temperature {temperature}, the first {right} of them right"
    assert failure.value.read.endswith(where)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "load", [reference.load, reference.load_uncached, huggingface.load, huggingface.load_eager]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_right_implementations_pass(
    checkpoint: Path, load: Load, dtype: torch.dtype, temperature: float
) -> None:
    suite.test_induction(judged_on_cpu(load(str(checkpoint), dtype=dtype)), temperature)


def test_a_batch_that_is_refused_is_a_failure(checkpoint: Path) -> None:
    class OneRow(reference.Reference):
        def generate(self, token_ids: Tensor, **options: Any) -> list[list[int]]:
            if len(token_ids) > 1:
                raise ValueError("one row at a time")
            return super().generate(token_ids, **options)

    one_row = OneRow(reference.load(str(checkpoint)).model)
    with pytest.raises(
        Failure, match="a batch of 4 rows is refused: ValueError: one row at a time"
    ):
        suite.test_induction(judged_on_cpu(one_row), 0.0)


def test_each_pair_of_words_has_one_follower_and_the_prompt_repeats_its_last_pair() -> None:
    for begin, cycle in suite.TEXTS:
        text = (begin + cycle * INDUCTION.n_positions)[: INDUCTION.n_positions + 1]
        followers = {text[i : i + 2]: text[i + 2] for i in range(len(text) - 2)}
        assert all(followers[text[i : i + 2]] == text[i + 2] for i in range(len(text) - 2))
        assert text[suite.PROMPT - 2 : suite.PROMPT] in text[: suite.PROMPT - 1]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_the_word_to_say_has_a_logit_of_64_and_others_below_2(
    checkpoint: Path, dtype: torch.dtype
) -> None:
    text = [suite.WORDS[word] for word in ("BADCEFG" * 5)[: INDUCTION.n_positions]]
    logits = judged_on_cpu(reference.load(str(checkpoint), dtype=dtype)).logits(
        torch.tensor([text])
    )[0, 8:]
    largest = logits.topk(2).values
    assert (largest[:, 0] - 64).abs().max() < 0.5
    assert largest[:, 1].max() < 2


def test_there_is_room_for_ten_words() -> None:
    induction(range(10))
    with pytest.raises(ValueError, match="11 different tokens, a script has room for 10"):
        induction(range(11))
