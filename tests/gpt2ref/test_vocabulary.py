"""A model with more rows than GPT-2 has tokens writes text, and never draws the further ids."""

import json
import math
from typing import Any

import pytest
import torch

from conformance.checkpoints.tensors import write_checkpoint
from gpt2ref import (
    GPT2Config,
    cli,
    compile_step,
    from_tensors,
    generate,
    generation,
    load_checkpoint,
    sample,
    stream,
)
from gpt2ref.fast.captured_step import CapturedDecodeSteps
from gpt2ref.generation import DecodeSteps

SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 1.3, "top_k": 7, "seed": 5},
]


def padded(tensors, rows):
    """Return the tensors with more rows, whose logits are by far the largest or the smallest."""
    wte = tensors["wte.weight"]
    more = 1000 * wte[torch.arange(rows) % 100]
    return tensors | {"wte.weight": torch.cat([wte, more, -more])}


@pytest.fixture(scope="module", params=[24, 1], ids=["50305", "50259"])
def larger(request, tmp_path_factory, config, tensors):
    rows = padded(tensors, request.param)
    folder = tmp_path_factory.mktemp("larger")
    more = {"vocab_size": len(rows["wte.weight"])}
    return write_checkpoint(folder, GPT2Config(**vars(config) | more), rows)


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_text_is_that_of_the_model_with_gpt2s_vocabulary(larger, model, options):
    options = {"max_new_tokens": 30, **options}  # longer than the context
    more = load_checkpoint(larger)
    drawn = sample(more, [[464, 3290]], eos_token_id=None, **options)[0]
    assert max(drawn) > 50256  # otherwise the further ids would not be in the way
    prompts = ["The dog", "", "A"]
    assert generate(prompts, more, **options) == generate(prompts, model, **options)
    assert "".join(stream("The dog", more, **options)) == "".join(
        stream("The dog", model, **options)
    )
    assert generate("The dog", larger, device="cpu", **options) == generate(
        "The dog", model, **options
    )


def test_the_command_line_writes_text(larger, folder, capsys):
    texts = []
    for checkpoint in (larger, folder):
        options = ["--max-new-tokens", "8", "--seed", "2", "--device", "cpu"]
        assert cli.main(["The dog", "--model", str(checkpoint), *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("steps", [DecodeSteps, CapturedDecodeSteps])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_every_kind_of_step_cuts_the_vocabulary(larger, model, monkeypatch, steps, options):
    monkeypatch.setattr(generation, "make_steps", steps)
    more, rows = load_checkpoint(larger), [[464, 3290], [5]]
    options = {"max_new_tokens": 25, "eos_token_id": None, **options}
    assert sample(more, rows, vocab_size=50257, **options) == sample(model, rows, **options)
    # Captured steps keep their buffers for the next call, which may have another vocabulary.
    assert any(max(row) > 50256 for row in sample(more, rows, **options))
    assert max(map(max, sample(more, rows, vocab_size=300, **options))) < 300


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_the_compiled_step_cuts_the_vocabulary(config, tensors, options):
    rows = padded(tensors, 24)
    wide = from_tensors(rows, GPT2Config(**vars(config) | {"vocab_size": 50305}))
    compile_step(wide)
    usual = from_tensors(tensors, config)
    compile_step(usual)
    options = {"max_new_tokens": 10, "eos_token_id": None, **options}
    assert sample(wide, [[464], [7]], vocab_size=50257, **options) == sample(
        usual, [[464], [7]], **options
    )


def test_a_prompt_may_have_ids_that_are_never_drawn(larger):
    more = load_checkpoint(larger)
    drawn = sample(more, [[50257, 50258]], max_new_tokens=3, temperature=0, vocab_size=50257)
    assert max(drawn[0], default=0) < 50257


def test_padding_that_is_no_number_is_not_looked_at(config, tensors):
    rows = padded(tensors, 1)
    rows["wte.weight"][50257:] = math.nan
    wide = from_tensors(rows, GPT2Config(**vars(config) | {"vocab_size": 50259}))
    usual = from_tensors(tensors, config)
    options: dict[str, Any] = {"max_new_tokens": 5, "seed": 1, "top_k": 3}
    assert generate("A", wide, **options) == generate("A", usual, **options)


@pytest.mark.parametrize(
    ("error", "value"),
    [(ValueError, 0), (ValueError, -3), (ValueError, 98), (TypeError, 5.0), (TypeError, True)],
)
def test_a_bad_vocab_size_is_refused_by_name_and_value(tiny, error, value):
    with pytest.raises(error, match=f"^vocab_size={value}: expected "):
        sample(tiny, [[1]], max_new_tokens=1, vocab_size=value)


def test_a_vocabulary_without_eos_never_ends_a_row(tiny):
    assert len(sample(tiny, [[1]], max_new_tokens=20, seed=0)[0]) == 20
    assert max(sample(tiny, [[1]], max_new_tokens=200, seed=0, vocab_size=10)[0]) < 10


def test_a_smaller_vocabulary_is_refused_for_text_and_takes_ids(tiny_folder):
    with pytest.raises(ValueError, match=r"^model: vocab_size=97, expected at least 50257"):
        generate("A", tiny_folder)
    smaller = json.loads((tiny_folder / "config.json").read_text())
    assert smaller["vocab_size"] == 97
    assert sample(load_checkpoint(tiny_folder), [[96]], max_new_tokens=2, seed=0)[0]
