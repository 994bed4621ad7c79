"""Names lose the parts that wrappers add. A tensor that is not GPT-2's is named in an error."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from conformance.checkpoints.tensors import trained_like
from gpt2ref import CheckpointError, GPT2Config, from_tensors
from gpt2ref.conversion import to_hugging_face_tensors

CONFIG = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=11, n_head=2)
TENSORS = trained_like(CONFIG, seed=0)


def loads(tensors):
    """Return whether the tensors make the model that has TENSORS."""
    loaded = to_hugging_face_tensors(from_tensors(tensors, CONFIG))
    return all(torch.equal(loaded[f"transformer.{key}"], TENSORS[key]) for key in TENSORS)


FRONTS = [
    "",
    "transformer.",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "model.transformer.",
    "model._orig_mod.transformer.",
    "module.model.transformer.",
    "_forward_module.model.",
    "_fsdp_wrapped_module._orig_mod.transformer.",
    "pretrained_model.transformer.",
    "gpt2.transformer.",
    "student.backbone.0.",
    "actor.model.module.",
    "module.module.",
    "0.",
    "h2o.",
]
MIDDLES = {
    "block": (r"^(h\.\d+\.)", r"\1_orig_mod."),
    "checkpointed block": (r"^(h\.\d+\.)", r"\1_checkpoint_wrapped_module."),
    "sharded block": (r"^(h\.\d+\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module."),
    "parallel block": (r"^(h\.\d+\.)", r"\1module."),
    "blocks": (r"^h\.", "h._fsdp_wrapped_module."),
    "one block in two": (r"^(h\.\d*[02468]\.)", r"\1_fsdp_wrapped_module."),
    "attention": (r"\.attn\.", ".attn._orig_mod."),
    "matrices": (r"\.(c_\w+)\.", r".\1._orig_mod."),
    "norms": (r"(ln_\w)\.", r"\1._orig_mod."),
    "block, by any name": (r"^(h\.\d+\.)", r"\1inner."),
    "attention, by any name": (r"\.attn\.", ".attn.wrapped.layer."),
    "blocks, by any name": (r"^h\.", "h.layers."),
    "matrices of an adapter that was taken away": (r"\.(c_attn)\.", r".\1.base_layer."),
    "embeddings": (r"^(w[tp]e)\.", r"\1.module."),
}


@pytest.mark.parametrize("front", FRONTS)
def test_a_wrapper_of_the_model_is_taken_off(front):
    assert loads({front + key: tensor for key, tensor in TENSORS.items()})


@pytest.mark.parametrize("front", ["", "module.", "model.transformer."])
@pytest.mark.parametrize("middle", MIDDLES)
def test_a_wrapper_of_a_part_is_taken_off(front, middle):
    names = {key: front + re.sub(*MIDDLES[middle], key) for key in TENSORS}
    assert names != {key: front + key for key in TENSORS}
    assert loads({names[key]: tensor for key, tensor in TENSORS.items()})


@pytest.mark.parametrize(
    ("front", "head"),
    [
        ("transformer.", "lm_head.weight"),
        ("model.", "lm_head.weight"),
        ("model.transformer.", "model.lm_head.weight"),
        ("_orig_mod.transformer.", "_orig_mod.lm_head.weight"),
        ("transformer._orig_mod.", "lm_head._orig_mod.weight"),
        ("pretrained_model.transformer.", "pretrained_model.lm_head.weight"),
        ("backbone.", "head.lm_head.weight"),
    ],
)
def test_the_head_may_stand_elsewhere(front, head):
    tensors = {front + key: tensor for key, tensor in TENSORS.items()}
    assert loads(tensors | {head: TENSORS["wte.weight"]})
    with pytest.raises(CheckpointError, match=r"^lm_head\.weight differs from wte\.weight"):
        loads(tensors | {head: TENSORS["wte.weight"] + 1})
    del tensors[front + "wte.weight"]
    assert loads(tensors | {head: TENSORS["wte.weight"]})


def test_what_torch_itself_wraps_is_read():
    class Lightning(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

    model = from_tensors(TENSORS, CONFIG)
    for number, block in enumerate(model.transformer.h):
        compiled: Any = torch.compile(block, backend="eager")
        model.transformer.h[number] = compiled
    wrapped = Lightning(torch.compile(model, backend="eager"))
    tensors = wrapped.state_dict()
    assert "model._orig_mod.transformer.h.3._orig_mod.ln_1.bias" in tensors
    assert loads(tensors)


def test_masks_under_a_wrapper_are_ignored():
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 5, 5) for layer in range(11)}
    assert loads({f"module.{key}": tensor for key, tensor in (TENSORS | masks).items()})


@pytest.mark.parametrize(
    "key",
    [
        "h.0.attn.rotary.weight",
        "h.0.attn.rotary.inv_freq",
        "adapter.h.0.attn.c_attn.weight",
        "adapter.ln_f.weight",
        "ema.wte.weight",
        "v_head.summary.weight",
        "score.weight",
        "h.0.attn.c_attn.lora_A.default.weight",
        "h.0.attn.c_attn.lora_A.weight",
        "h.0.crossattention.c_attn.weight",
        "h.0.mlp.experts.0.c_fc.weight",
        "n_averaged",
        "wte.adapter.weight",
        "h.0.h.0.ln_1.weight",
        "v_head.wte.weight",
        "wte.weight.adapter",
        "h.0.ln_1.adapter.shift.weight",
        "h.0.adapter.attn.c_attn.weight",
    ],
)
@pytest.mark.parametrize("front", ["", "module.", "model."])
def test_a_tensor_that_is_no_gpt2s_is_unexpected(front, key):
    tensors = {front + name: tensor for name, tensor in TENSORS.items()}
    with pytest.raises(CheckpointError, match=rf"(?m)^unexpected: {re.escape(key)}$"):
        loads(tensors | {key: torch.ones(4)})
    with pytest.raises(CheckpointError, match=rf"(?m)^unexpected: \S*{re.escape(key)}$"):
        loads(tensors | {front + key: torch.ones(4)})


def test_another_tensor_does_not_take_the_place_of_one_that_is_missing():
    others = ("adapter.ln_f.weight", "ln_f.scale.weight", "ln_f.lora_A.weight", "h.0.ln_f.weight")
    for other in others:
        tensors = {key: tensor for key, tensor in TENSORS.items() if key != "ln_f.weight"}
        with pytest.raises(CheckpointError, match=rf"^missing: ln_f.weight\nunexpected: {other}"):
            loads(tensors | {other: TENSORS["ln_f.weight"]})


@pytest.mark.parametrize(
    "other", ["module.wte.weight", "transformer._orig_mod.wte.weight", "wte._orig_mod.weight"]
)
def test_two_names_of_one_tensor_are_refused_and_both_named(other):
    with pytest.raises(CheckpointError, match=r"^several names for one tensor: ") as error:
        loads(TENSORS | {other: TENSORS["wte.weight"]})
    assert str(error.value).endswith(", ".join(sorted([other, "wte.weight"])))


def test_what_was_taken_off_is_in_the_error():
    names = {key: re.sub(r"^(h\.\d+\.)", r"\1_orig_mod.", key) for key in TENSORS}
    tensors = {f"module.model.{names[key]}": tensor for key, tensor in TENSORS.items()}
    del tensors["module.model.wpe.weight"]
    with pytest.raises(
        CheckpointError,
        match=r"^missing: wpe\.weight\ntaken off the names: _orig_mod\., model\., module\.$",
    ):
        loads(tensors)


def test_parts_that_hold_two_things_are_no_wrappers():
    """An adapter that is not merged changes the numbers, so its matrix must not load alone."""
    base = "h.0.attn.c_attn"
    tensors = {key: tensor for key, tensor in TENSORS.items() if key != f"{base}.weight"}
    tensors[f"{base}.base_layer.weight"] = TENSORS[f"{base}.weight"]
    lora = {f"{base}.lora_A.weight": torch.ones(2, 4), f"{base}.lora_B.weight": torch.ones(12, 2)}
    with pytest.raises(CheckpointError, match=rf"^missing: {base}.weight\nunexpected: .*lora_A"):
        loads(tensors | lora)


@pytest.mark.parametrize("name", ["h." * 300_000 + "x", "a." * 300_000 + "wte.weight", "." * 10**6])
def test_a_hostile_name_takes_no_longer_than_its_length(name):
    """A search that takes the square of it would not end."""
    with pytest.raises(CheckpointError, match="unexpected"):
        loads(TENSORS | {name: torch.ones(1)})
