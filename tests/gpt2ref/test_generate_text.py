"""`generate` and `stream`: text in, text out."""

from collections.abc import Generator
from typing import Any

import pytest
import torch

from gpt2ref import EOS, decode, encode, generate, load_checkpoint, sample, stream

PROMPT = "Once upon a time"
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 1000, "seed": 4}


def test_a_text_is_the_prompt_followed_by_its_continuation(model):
    new = sample(model, [encode(PROMPT)], **OPTIONS)[0]
    assert len(new) == 12
    assert generate(PROMPT, model, **OPTIONS) == PROMPT + decode(new)


def test_each_prompt_of_a_list_gets_the_text_that_it_gets_alone_with_its_own_seed(model):
    prompts = [PROMPT, "", "The", PROMPT]
    texts = generate(prompts, model, **OPTIONS)
    assert texts == [
        generate(prompt, model, **OPTIONS | {"seed": 4 + row}) for row, prompt in enumerate(prompts)
    ]
    assert texts[0] != texts[3]
    assert prompts == [PROMPT, "", "The", PROMPT]
    assert generate([PROMPT], model, **OPTIONS) == texts[:1]
    assert generate([], model) == []


def test_a_checkpoint_is_loaded_with_the_given_device_and_dtype(folder, model):
    text = generate(PROMPT, folder, device="cpu", **OPTIONS)
    assert (
        text
        == generate(PROMPT, str(folder), device="cpu", **OPTIONS)
        == generate(PROMPT, model, **OPTIONS)
    )
    assert "".join(stream(PROMPT, folder, device="cpu", **OPTIONS)) == text.removeprefix(PROMPT)
    half = load_checkpoint(folder, dtype=torch.bfloat16)
    assert generate(PROMPT, folder, device="cpu", dtype=torch.bfloat16, **OPTIONS) == generate(
        PROMPT, half, **OPTIONS
    )


def test_an_empty_prompt_starts_from_eos_which_is_not_in_the_text(model):
    text = generate("", model, **OPTIONS)
    assert text == decode(sample(model, [[EOS]], **OPTIONS)[0])
    assert text


def test_the_name_of_eos_in_a_prompt_is_plain_text(scripted):
    typed = "<|endoftext|>"
    model = load_checkpoint(scripted([EOS] * (len(encode(typed)) - 1) + encode(" so it goes on")))
    assert len(encode(typed)) > 1
    assert generate(typed, model, max_new_tokens=4, temperature=0) == typed + " so it goes on"


def test_eos_from_the_model_ends_the_text(scripted):
    model = load_checkpoint(scripted([*encode(" happily"), EOS, *encode(" ever")]))
    assert generate("A", model, temperature=0) == "A happily"
    assert list(stream("A", model, temperature=0)) == [" happily"]


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_the_pieces_of_a_stream_are_the_continuation(model, prompt):
    pieces = list(stream(prompt, model, **OPTIONS))
    assert len(pieces) > 3
    assert all(pieces)
    assert prompt + "".join(pieces) == generate(prompt, model, **OPTIONS)


def test_a_character_of_several_tokens_is_one_piece(scripted):
    said = encode(" a🧜b")
    model = load_checkpoint(scripted([*said, EOS]))
    assert len(said) > 3
    assert list(stream("A", model, temperature=0)) == [" a", "🧜", "b"]


def test_a_character_cut_off_by_the_last_token_is_a_replacement_character(scripted):
    said = encode("🧜")
    model = load_checkpoint(scripted(said))
    assert (
        generate("A", model, max_new_tokens=len(said) - 1, temperature=0)
        == "A\N{REPLACEMENT CHARACTER}"
    )


def test_a_piece_comes_with_its_token_and_closing_the_stream_stops_the_model(
    scripted,
):
    passes = []
    model = load_checkpoint(scripted(encode(" one two three four five")))
    model.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    pieces = stream("A", model, temperature=0)
    assert passes == []
    assert next(pieces) == " one"
    assert len(passes) == 1
    assert next(pieces) == " two"
    assert len(passes) == 2
    assert isinstance(pieces, Generator)
    pieces.close()
    assert list(pieces) == []
    assert len(passes) == 2


def test_between_two_pieces_the_caller_is_not_in_inference_mode(model):
    weight = torch.ones(1, requires_grad=True)
    pieces = stream(PROMPT, model, **OPTIONS)
    for _ in pieces:
        assert not torch.is_inference_mode_enabled()
        (weight * 2).backward()
    assert weight.grad is not None
    assert weight.grad.item() > 2
    half = stream(PROMPT, model, **OPTIONS)
    next(half)
    del half
    assert not torch.is_inference_mode_enabled()


def test_two_streams_of_one_model_do_not_disturb_each_other(model):
    alone = [list(stream(PROMPT, model, **OPTIONS | {"seed": seed})) for seed in (0, 1)]
    one, other = (stream(PROMPT, model, **OPTIONS | {"seed": seed}) for seed in (0, 1))
    together: list[list[str]] = [[], []]
    for n in range(20):
        together[n % 2].extend(piece for piece in [next((one, other)[n % 2], "")] if piece)
    assert ["".join(pieces) for pieces in together] == ["".join(pieces[:10]) for pieces in alone]
