"""Matrices are stored [in, out] or [out, in]: which layout each kind of file may have."""

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conformance.checkpoints.tensors import trained_like, write_checkpoint
from gpt2ref import CheckpointError, GPT2Config, from_tensors, load_checkpoint
from gpt2ref.conversion import PREFIX, TRANSPOSED

CONFIG = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=3, n_head=2)
MATRICES = [key.format(layer=layer) for key in TRANSPOSED for layer in range(3)]
ARGS = {
    "n_layer": 3,
    "n_head": 2,
    "n_embd": 4,
    "block_size": 5,
    "bias": True,
    "vocab_size": 7,
    "dropout": 0.0,
}


def as_linear(tensors, keys=MATRICES):
    return {
        key: tensor.t().contiguous() if key in keys else tensor for key, tensor in tensors.items()
    }


@pytest.fixture
def tensors():
    return trained_like(CONFIG, seed=0)


@pytest.fixture
def nanogpt(tensors):
    """Return the state dict of a compiled nanoGPT model, with mask buffers and the tied head."""
    state = {PREFIX + key: tensor for key, tensor in as_linear(tensors).items()}
    state["lm_head.weight"] = state[PREFIX + "wte.weight"]
    state |= {f"{PREFIX}h.{layer}.attn.bias": torch.ones(1, 1, 5, 5).tril() for layer in range(3)}
    return {"_orig_mod." + key: tensor for key, tensor in state.items()}


def assert_same_model(model, tensors, config=CONFIG):
    expected = from_tensors(tensors, config)
    state = expected.state_dict()
    assert model.config == config
    assert model.state_dict().keys() == state.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    token_ids = torch.tensor([[1, 6, 0, 2]])
    torch.testing.assert_close(model(token_ids), expected(token_ids), rtol=1e-5, atol=1e-5)


def test_a_state_dict_of_nanogpt_is_the_same_model_and_is_not_copied(nanogpt, tensors):
    model = from_tensors(nanogpt, CONFIG)
    assert_same_model(model, tensors)
    for key, parameter in model.state_dict().items():
        assert parameter.data_ptr() == nanogpt["_orig_mod." + key].data_ptr(), key


def test_names_without_prefixes_give_the_same_model(nanogpt, tensors):
    assert_same_model(from_tensors(as_linear(tensors), CONFIG), tensors)
    assert_same_model(
        from_tensors({key.removeprefix("_orig_mod."): t for key, t in nanogpt.items()}, CONFIG),
        tensors,
    )


@pytest.mark.parametrize("n_inner", [4, 1, 12])
def test_c_attn_decides_where_the_mlp_is_square_or_narrow(n_inner):
    config = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=3, n_head=2, n_inner=n_inner)
    tensors = trained_like(config, seed=0)
    assert_same_model(from_tensors(as_linear(tensors), config), tensors, config)
    assert_same_model(from_tensors(tensors, config), tensors, config)


def test_c_attn_decides_also_in_a_model_of_width_one():
    config = GPT2Config(vocab_size=7, n_positions=5, n_embd=1, n_layer=1, n_head=1, n_inner=1)
    tensors = trained_like(config, seed=0)
    assert_same_model(from_tensors(as_linear(tensors), config), tensors, config)


@pytest.mark.parametrize("odd", [key for key in MATRICES if "attn.c_proj" not in key])
@pytest.mark.parametrize("linear", [False, True])
def test_a_matrix_that_disagrees_with_the_others_is_refused(tensors, odd, linear):
    mixed = as_linear(tensors, [key for key in MATRICES if (key != odd) == linear])
    shape = list(mixed[odd].shape)
    with pytest.raises(
        CheckpointError, match=f"^wrong shape: {odd} is {re.escape(str(shape))}, expected"
    ) as error:
        from_tensors(mixed, CONFIG)
    assert re.escape(str(shape[::-1])) in re.escape(str(error.value))


def test_an_equal_number_of_both_layouts_is_refused(tensors):
    mixed = as_linear(
        tensors,
        [
            key
            for key in MATRICES
            if "mlp.c_fc" in key or "h.0.attn.c_attn" in key or "h.1.mlp" in key
        ],
    )
    with pytest.raises(CheckpointError, match=r"^wrong shape: "):
        from_tensors(mixed, CONFIG)


def test_a_wrong_shape_among_out_in_matrices_is_compared_with_out_in(tensors):
    linear = as_linear(tensors) | {
        "h.1.mlp.c_fc.weight": torch.ones(15, 4),
        "h.2.attn.c_proj.weight": torch.ones(4, 5),
    }
    with pytest.raises(CheckpointError) as error:
        from_tensors(linear, CONFIG)
    assert str(error.value) == (
        "wrong shape: h.2.attn.c_proj.weight is [4, 5], expected [4, 4], "
        "h.1.mlp.c_fc.weight is [15, 4], expected [16, 4]"
    )


def test_a_shape_of_neither_layout_is_compared_with_the_layout_of_the_others():
    config = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=2)
    odd = {"h.0.attn.c_attn.weight": torch.ones(4, 13), "h.0.mlp.c_fc.weight": torch.ones(4, 17)}
    with pytest.raises(CheckpointError, match=r"c_attn\.weight is \[4, 13\], expected \[4, 12\]"):
        from_tensors(trained_like(config, seed=0) | odd, config)


def test_biases_that_nanogpt_left_out_are_named(tensors):
    unbiased = {
        key: tensor for key, tensor in as_linear(tensors).items() if not key.endswith(".bias")
    }
    with pytest.raises(CheckpointError, match=r"^missing: all 19 biases \(.*bias=False"):
        from_tensors(unbiased, CONFIG)


def test_a_padded_vocabulary_is_refused_unless_the_config_has_it(tensors):
    config = GPT2Config(vocab_size=50257, n_positions=5, n_embd=4, n_layer=3, n_head=2)
    padded = as_linear(tensors) | {"wte.weight": torch.ones(50304, 4)}
    with pytest.raises(
        CheckpointError, match=r"^wrong shape: wte.weight is \[50304, 4\], expected \[50257, 4\]$"
    ):
        from_tensors(padded, config)
    larger = GPT2Config(vocab_size=50304, n_positions=5, n_embd=4, n_layer=3, n_head=2)
    assert from_tensors(padded, larger).transformer.wte.weight.shape == (50304, 4)


def test_mingpts_own_head_is_refused(nanogpt):
    nanogpt["_orig_mod.lm_head.weight"] = torch.ones(7, 4)
    with pytest.raises(CheckpointError, match=r"^lm_head\.weight differs from wte\.weight"):
        from_tensors(nanogpt, CONFIG)


def test_a_tensor_with_and_without_torch_compiles_prefix_is_refused(nanogpt):
    nanogpt[PREFIX + "ln_f.bias"] = torch.ones(4)
    names = "_orig_mod.transformer.ln_f.bias, transformer.ln_f.bias"
    with pytest.raises(
        CheckpointError, match=f"^several names for one tensor: {re.escape(names)}$"
    ):
        from_tensors(nanogpt, CONFIG)


def save_ckpt(path, state, **args):
    optimizer = {
        "state": {0: {"step": torch.tensor(1.0)}},
        "param_groups": [{"betas": (0.9, 0.95), "params": [0]}],
    }
    torch.save(
        {
            "model": state,
            "optimizer": optimizer,
            "model_args": ARGS | args,
            "iter_num": 3,
            "config": {"a": "b"},
        },
        path,
    )
    return path


@pytest.mark.usefixtures("reads_pickles")
def test_the_shape_is_read_from_nanogpts_file(tmp_path, nanogpt, tensors):
    path = save_ckpt(tmp_path / "ckpt.pt", nanogpt)
    assert_same_model(load_checkpoint(path), tensors)
    write_checkpoint(tmp_path, GPT2Config(), {})  # another model's config.json
    assert_same_model(load_checkpoint(path), tensors)


@pytest.mark.usefixtures("reads_pickles")
def test_nanogpts_file_is_out_in_and_the_other_layout_is_refused(tmp_path, tensors):
    path = save_ckpt(tmp_path / "ckpt.pt", tensors)
    with pytest.raises(
        CheckpointError,
        match=r"ckpt\.pt:\nmatrices stored in_out, expected out_in; .*layout='in_out'",
    ):
        load_checkpoint(path)


def save_bin(tensors, path):
    torch.save(tensors, path)


def save_shards(tensors, path):
    """Write one shard and the index that names it."""
    save_file(tensors, path.with_name("shard.safetensors"))
    path.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "shard.safetensors")}))


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("model.safetensors", save_file),
        ("model.safetensors.index.json", save_shards),
        ("pytorch_model.bin", save_bin),
    ],
)
def test_a_file_with_hugging_faces_name_is_refused_in_linears_layout(tmp_path, tensors, name, save):
    """transformers refuses it, too. The error says how to load it."""
    write_checkpoint(tmp_path, CONFIG, {})
    (tmp_path / "model.safetensors").unlink()
    save(as_linear(tensors), tmp_path / name)
    reason = (
        rf"{re.escape(name)}:\nmatrices stored out_in, expected in_out; "
        r"from_tensors\(\.\.\., layout='out_in'\) loads them: "
        r"h\.0\.attn\.c_attn\.weight is \[12, 4\], expected \[4, 12\]"
    )
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(path)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize(
    ("name", "save"),
    [("model.pt", save_bin), ("step-100.pth", save_bin), ("step-100.safetensors", save_file)],
)
@pytest.mark.parametrize("linear", [False, True])
def test_a_file_with_any_other_name_may_have_either_layout(tmp_path, tensors, name, save, linear):
    write_checkpoint(tmp_path, CONFIG, {})
    save(as_linear(tensors) if linear else tensors, tmp_path / name)
    assert_same_model(load_checkpoint(tmp_path / name), tensors)


def test_a_layout_that_is_given_is_not_guessed(tensors):
    assert_same_model(from_tensors(tensors, CONFIG, layout="in_out"), tensors)
    assert_same_model(from_tensors(as_linear(tensors), CONFIG, layout="out_in"), tensors)
    with pytest.raises(CheckpointError, match=r"^matrices stored \w+, expected in_out; .*c_attn"):
        from_tensors(as_linear(tensors), CONFIG, layout="in_out")
    with pytest.raises(CheckpointError, match=r"^matrices stored \w+, expected out_in; .*c_attn"):
        from_tensors(tensors, CONFIG, layout="out_in")


def test_a_layout_that_does_not_exist_is_refused(tensors):
    layout: Any = "Conv1D"
    with pytest.raises(ValueError, match=r"^layout='Conv1D': expected in_out, out_in or None$"):
        from_tensors(tensors, CONFIG, layout=layout)


@pytest.mark.usefixtures("reads_pickles")
@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        (
            {"model": {}, "model_args": {"n_layer": 3, "n_head": 2, "n_embd": 4}},
            "model_args: missing: block_size, vocab_size",
        ),
        ({"model": {}, "model_args": [1]}, "model_args: "),
        ({"model": {}, "model_args": ARGS | {"n_head": 3}}, "model_args: n_head=3"),
        ({"model": {}, "model_args": ARGS}, "\nmissing: h.0"),
        ({"model": [1], "model_args": ARGS}, "expected a dictionary of names and dense tensors"),
        ({"model_args": ARGS}, "expected a dictionary of names and dense tensors"),
        (
            {"model": {"a": 1}, "model_args": ARGS},
            "expected a dictionary of names and dense tensors",
        ),
    ],
)
def test_a_file_that_only_resembles_nanogpts_is_refused_by_file_and_reason(tmp_path, saved, reason):
    torch.save(saved, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=rf"ckpt\.pt:\s*{re.escape(reason.strip())}"):
        load_checkpoint(tmp_path / "ckpt.pt")


def test_nanogpts_file_is_not_read_by_a_torch_that_would_run_its_code(
    tmp_path, nanogpt, monkeypatch
):
    path = save_ckpt(tmp_path / "ckpt.pt", nanogpt)
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(CheckpointError, match=r"ckpt\.pt: .*2\.6.*2\.5\.1"):
        load_checkpoint(path)
