"""The suite as files: they are whole, and say what they should."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file

from conformance.defects import DEFECTS, EQUIVALENT, VARIANTS, CompleteGPT2
from conformance.diagnosis.comparison import loading
from conformance.judging.oracle import expected
from conformance.probes.gpt2 import PlainGPT2
from conformance.requirements import REQUIREMENTS
from conformance.vectors import generator
from conformance.vectors.cases import cases
from conformance.vectors.checkpoints import CHECKPOINTS, SMALL, WHOLE_VOCABULARY
from conformance.vectors.expecting import with_answers
from conformance.vectors.full import full_files
from conformance.vectors.left_out import LEFT_OUT
from conformance.vectors.performing import perform
from conformance.vectors.shows import shows
from conformance.vectors.write import HERE, write_checkpoint
from tests.shared.vectors import index, written

ROOT = Path(__file__).parents[2]
PAGE = " ".join((ROOT / "docs/vectors.md").read_text(encoding="utf-8").split())


def schema(name):
    return json.loads((HERE / f"{name}.schema.json").read_text(encoding="utf-8"))


def test_the_default_set_has_at_most_five_megabytes():
    assert sum(file.stat().st_size for file in written().folder.rglob("*")) < 5e6


def test_the_counts_of_the_page_are_those_of_the_files():
    cases = written().cases.values()
    sizes = {name: each["bytes"] for name, each in index()["files"].items()}
    size = sum(sizes.values()) / 1e6
    twice = size + sum(sizes[name] for name in sizes if name.endswith(".safetensors")) / 1e6
    assert f"The folder has {len(cases)} cases in {size:.1f} MB" in PAGE
    assert f"it would make {twice:.1f} MB of {size:.1f}" in PAGE
    of_logits = [case for case in cases if {call["do"] for call in case["calls"]} == {"logits"}]
    assert f"Logits alone make {len(of_logits)} cases" in PAGE
    unseen = Counter(str(DEFECTS[name].requirement) for name in shows() if not shows()[name])
    caught, harmless = len(shows()) - unseen.total(), len(EQUIVALENT) + len(VARIANTS)
    assert f"They catch {caught} of {len(shows())} defects" in PAGE
    assert f"flag none of {harmless} harmless changes and variants" in PAGE
    of_chance = unseen["sampling.seed"] + unseen["sampling.independent-draws"]
    others = unseen["keys.published-sizes"], unseen["keys.round-trip"]
    of_precision = unseen.total() - of_chance - sum(others)
    assert others == (1, 1)
    assert f"The other {unseen.total()} can't be seen in files" in PAGE
    assert f"({of_chance}), float64 and half precision ({of_precision})" in PAGE


def test_the_files_are_as_their_schemas_say():
    jsonschema.validate(index(), schema("index"))
    for case in written().cases.values():
        jsonschema.validate(case, schema("case"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(index() | {"format": 2}, schema("index"))


def test_every_requirement_is_asked_or_left_out_with_a_reason():
    asked = {name for case in written().cases.values() for name in case["requirements"]}
    assert asked <= REQUIREMENTS.keys()
    full = {"cache.steps"}  # in the full set
    assert not asked & (LEFT_OUT.keys() - full)
    assert asked | LEFT_OUT.keys() == REQUIREMENTS.keys()


def test_the_places_of_tensors_are_those_of_the_file():
    folder = written().folder / "checkpoints" / "plain"
    places = json.loads((folder / "tensors.json").read_text(encoding="utf-8"))["tensors"]
    content = (folder / "model.safetensors").read_bytes()
    found = load_file(folder / "model.safetensors")
    assert {place["name"] for place in places} == found.keys()
    for place in places:
        tensor = found[place["name"]]
        assert place["shape"] == list(tensor.shape)
        flat = torch.frombuffer(
            bytearray(content), dtype=torch.float32, count=tensor.numel(), offset=place["offset"]
        )
        assert torch.equal(flat, tensor.flatten())


def test_the_truth_is_that_of_the_suite():
    case = written().cases["plain"]
    folder = written().folder / case["checkpoint"]
    truth = expected(str(folder), torch.tensor(case["calls"][0]["token_ids"]), torch.float32)
    allowed = case["expected"]["allowed"]["float32"]
    own = torch.tensor(case["expected"]["answers"][0], dtype=torch.float64)
    assert float((own - truth.logits).abs().max()) < allowed / 50
    assert truth.allowed / 4 < allowed < truth.allowed * 4


def test_a_mistake_has_its_logits_where_it_shows_most():
    case = written().cases["mlp"]
    mistake = case["mistakes"]["gelu-erf"]
    assert mistake["requirement"] == "activation.curve"
    for place in mistake["answers"]:
        call, row, position, token = place["at"]
        right = case["expected"]["answers"][call][row][position][token]
        assert abs(place["is"] - right) > 50 * case["expected"]["allowed"]["float32"]


# The generator.


def test_integers_are_those_of_arithmetic_modulo_2_to_32():
    def integer(seed, counter):
        x = (counter * 0x9E3779B9 + seed) % 2**32
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return (x ^ x >> 16) >> 8

    for seed, first in ((0, 0), (20, 2**32 - 3), (2**32 - 1, 12345678)):
        right = [integer(seed, first + n) for n in range(5)]
        assert generator.integers(seed, first, 5).tolist() == right


def test_a_weight_is_rounded_once():
    rule = generator.Rule("ln_f.weight", (3, 5), 7, 3.0, 0.75)
    exact = [3 + 0.75 * (k - 2**23) / 2**23 for k in generator.integers(20, 7, 15).tolist()]
    assert torch.equal(
        generator.made(rule, 20).flatten(), torch.tensor(exact, dtype=torch.float64).float()
    )
    for each in generator.rules(SMALL):
        assert (each.half_range * 2**16).is_integer()


# The published shape, in small.


def test_the_full_set_has_rules_in_the_place_of_weights():
    shape = replace(WHOLE_VOCABULARY, vocab_size=300)
    files: dict[str, Any] = full_files(shape)
    rule = files["checkpoints/published-shape/rule.json"]
    rules = [generator.Rule(**each | {"shape": tuple(each["shape"])}) for each in rule["tensors"]]
    tensors = {each.name: generator.made(each, rule["seed"]) for each in rules}
    for name in rule["row_0"]["tensors"]:
        tensors[name][0] *= rule["row_0"]["factor"]
    case = files["cases/full-logits.json"]
    jsonschema.validate(case, schema("case"))
    logits = PlainGPT2(tensors, shape, dtype=torch.float64).logits(
        torch.tensor(case["calls"][0]["token_ids"])
    )
    right = torch.tensor(case["expected"]["answers"][0], dtype=torch.float64)
    # The answers are written with the digits that the allowed error of float32 leaves.
    allowed = case["expected"]["allowed"]["float32"]
    assert 0 < allowed < 1e-3 < 1 < right.abs().max()
    assert (logits[..., case["tokens"]] - right).abs().max() < allowed
    tensors["wte.weight"] = tensors["wte.weight"].roll(1, 0)
    other = PlainGPT2(tensors, shape, dtype=torch.float64).logits(
        torch.tensor(case["calls"][0]["token_ids"])
    )
    assert (other[..., case["tokens"]] - right).abs().max() > 100 * allowed


def test_a_case_that_a_right_gpt2_does_not_do_is_not_written(tmp_path):
    case = next(each for each in cases() if each.id == "head")
    write_checkpoint(tmp_path / "checkpoints" / "head", CHECKPOINTS["head"]())
    with pytest.raises(ValueError, match="case head: a right GPT-2 answers"):
        with_answers(case.to_dict(), True, tmp_path)


def test_no_given_number_is_so_near_to_two_tokens_that_rounding_decides():
    nearest = []

    class Near(CompleteGPT2):
        def draw(self, probabilities, uniform):
            sums = probabilities.double().cumsum(-1)
            nearest.append(float((sums - uniform[:, None] * sums[:, -1:]).abs().min()))
            return super().draw(probabilities, uniform)

    for case in written().cases.values():
        if any(call.get("uniforms") for call in case["calls"]):
            perform(case, loading(Near)(written().folder / case["checkpoint"], dtype=torch.float64))
    assert len(nearest) > 100
    assert min(nearest) > 5e-6  # float32 moves the sums by 2e-9
