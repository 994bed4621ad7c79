import re

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from conformance.checkpoints.tensors import blank, trained_like
from gpt2ref import GPT2, PUBLISHED_CONFIGS, CheckpointError, GPT2Config, from_tensors
from gpt2ref.conversion import (
    DTYPES,
    PREFIX,
    TRANSPOSED,
    from_hugging_face_tensors,
    to_hugging_face_tensors,
)

# Eleven layers, since the name h.10 begins with h.1. The matrix attn.c_proj is square.
CONFIG = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=11, n_head=2)


@pytest.fixture
def tensors():
    return trained_like(CONFIG, seed=0)


def convert(tensors, **options):
    return from_hugging_face_tensors(tensors, CONFIG, **options)


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype, key
        assert actual[key].shape == tensor.shape, key
        assert torch.equal(
            actual[key].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)
        ), key


def test_names_with_and_without_the_prefix_give_the_same_state(tensors):
    prefixed = {PREFIX + key: tensor for key, tensor in tensors.items()}
    mixed = {
        PREFIX + key if key.startswith("h.1") else key: tensor for key, tensor in tensors.items()
    }
    assert_same_bits(convert(prefixed), convert(tensors))
    assert_same_bits(convert(mixed), convert(tensors))


def test_the_state_has_the_names_and_shapes_of_the_model(tensors):
    state = convert(tensors)
    expected = GPT2(CONFIG).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }


def test_no_tensor_is_copied_and_four_matrices_a_block_are_transposed(tensors):
    state = convert(tensors)
    transposed = {key.format(layer=layer) for key in TRANSPOSED for layer in range(11)}
    assert len(transposed) == 44
    for key, tensor in tensors.items():
        ours = state[PREFIX + key]
        assert ours.data_ptr() == tensor.data_ptr(), key
        assert torch.equal(ours, tensor.t() if key in transposed else tensor), key
        assert ours.stride() == (tensor.t() if key in transposed else tensor).stride(), key


def test_converting_back_copies_nothing(tensors):
    back = to_hugging_face_tensors(from_tensors(tensors, CONFIG))
    for key, tensor in tensors.items():
        assert back[PREFIX + key].data_ptr() == tensor.data_ptr(), key
        assert back[PREFIX + key].is_contiguous(), key


@settings(max_examples=30)
@given(st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_converting_there_and_back_keeps_every_bit(dtype, seed):
    generator = torch.Generator().manual_seed(seed)

    def any_bits(tensor):  # NaNs, infinities and subnormals among them
        size = tensor.numel() * dtype.itemsize
        return (
            torch.randint(256, (size,), dtype=torch.uint8, generator=generator)
            .view(dtype)
            .view(tensor.shape)
        )

    theirs = {PREFIX + key: any_bits(tensor) for key, tensor in blank(CONFIG).items()}
    ours = from_tensors(theirs, CONFIG)
    back = to_hugging_face_tensors(ours)
    assert_same_bits(back, theirs)
    assert_same_bits(convert(back), ours.state_dict())


def test_a_model_shares_the_tensors_that_it_was_made_of(tensors):
    shared, moved = (
        from_tensors(tensors, CONFIG),
        from_tensors(tensors, CONFIG, device="meta", dtype=torch.float16),
    )
    for key, tensor in tensors.items():
        assert shared.get_parameter(PREFIX + key).data_ptr() == tensor.data_ptr(), key
    assert {(parameter.device.type, parameter.dtype) for parameter in moved.parameters()} == {
        ("meta", torch.float16)
    }
    with torch.device("meta"):
        elsewhere = from_tensors(blank(CONFIG), CONFIG)
    assert elsewhere.device == torch.device("meta")
    with pytest.raises(CheckpointError, match=r"^missing: wpe\.weight$"):
        from_tensors(
            {key: tensor for key, tensor in tensors.items() if key != "wpe.weight"}, CONFIG
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_dtype_is_kept_unless_another_is_requested(tensors, dtype):
    theirs = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    assert {tensor.dtype for tensor in convert(theirs).values()} == {dtype}
    assert {tensor.dtype for tensor in convert(theirs, dtype=torch.float32).values()} == {
        torch.float32
    }


def test_mixed_dtypes_are_refused_unless_one_is_requested(tensors):
    tensors["ln_f.bias"] = tensors["ln_f.bias"].half()
    with pytest.raises(
        CheckpointError, match=r"^mixed dtypes, give dtype= .*: torch\.float16, torch\.float32$"
    ):
        convert(tensors)
    assert {tensor.dtype for tensor in convert(tensors, dtype=torch.float32).values()} == {
        torch.float32
    }


def test_one_error_lists_everything_that_is_wrong(tensors):
    del tensors["wpe.weight"], tensors["h.10.mlp.c_fc.bias"]
    tensors["h.11.ln_1.weight"] = torch.ones(4)
    tensors["transformer.score.weight"] = torch.ones(4)
    tensors["h.3.attn.c_attn.weight"] = tensors["h.3.attn.c_attn.weight"].t()
    tensors["ln_f.bias"] = torch.ones(5)
    tensors["ln_f.weight"] = tensors["ln_f.weight"].int()
    tensors["h.4.ln_2.bias"] = tensors["h.4.ln_2.bias"].bool()
    tensors["lm_head.weight"] = tensors["wte.weight"] + 1
    with pytest.raises(CheckpointError) as error:
        convert(tensors)
    assert str(error.value).split("\n") == [
        "lm_head.weight differs from wte.weight: GPT-2 has one matrix for both",
        "missing: h.10.mlp.c_fc.bias, wpe.weight",
        "unexpected: h.11.ln_1.weight, score.weight",
        "wrong shape: ln_f.bias is [5], expected [4], "
        "h.3.attn.c_attn.weight is [12, 4], expected [4, 12]",
        "not a floating-point dtype that GPT-2 runs in: "
        "h.4.ln_2.bias is torch.bool, ln_f.weight is torch.int32",
    ]


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("ln_f.weight", [1]),
        ("ln_f.weight", [1, 4]),
        ("ln_f.weight", []),
        ("wte.weight", [1, 4]),
        ("wpe.weight", [5, 1]),
        ("wpe.weight", [6, 4]),
        ("h.0.attn.c_attn.bias", [1]),
        ("h.0.attn.c_attn.weight", [12, 4]),
        ("h.0.attn.c_attn.weight", [1, 12]),
        ("h.0.mlp.c_fc.weight", [4, 16, 1]),
    ],
)
def test_a_wrong_shape_is_refused_even_if_it_would_broadcast(tensors, key, shape):
    tensors[key] = torch.ones(shape)
    expected = list(trained_like(CONFIG, seed=0)[key].shape)
    with pytest.raises(CheckpointError, match=re.escape(f"{key} is {shape}, expected {expected}")):
        convert(tensors)


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn],
    ids=str,
)
def test_unsupported_dtypes_are_refused_even_if_another_is_requested(tensors, dtype):
    tensors["h.2.ln_1.weight"] = tensors["h.2.ln_1.weight"].to(dtype)
    for options in ({}, {"dtype": torch.float32}):
        with pytest.raises(
            CheckpointError, match=f"^not a floating-point dtype .*: h.2.ln_1.weight is {dtype}$"
        ):
            convert(tensors, **options)


def test_mask_buffers_of_older_checkpoints_are_ignored_whatever_their_dtype(tensors):
    expected = convert(tensors)
    for layer, dtype in enumerate([torch.float32, torch.uint8, torch.bool, torch.float16]):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 5, 5, dtype=dtype).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4).to(dtype)
    assert_same_bits(convert(tensors), expected)


def test_the_bias_of_c_attn_is_not_taken_for_a_mask(tensors):
    del tensors["h.0.attn.c_attn.bias"]
    with pytest.raises(CheckpointError, match=r"^missing: h\.0\.attn\.c_attn\.bias$"):
        convert(tensors)


@pytest.mark.parametrize(
    "key",
    ["h.11.attn.bias", "h.11.attn.masked_bias", "attn.bias", "h.0.attn.bias.bias", "h.0.mlp.bias"],
)
def test_a_mask_buffer_of_no_layer_is_unexpected(tensors, key):
    tensors[key] = torch.ones(1, 1, 5, 5)
    with pytest.raises(CheckpointError, match=f"^unexpected: {re.escape(key)}$"):
        convert(tensors)


def test_a_head_equal_to_the_embedding_is_the_embedding(tensors):
    expected = convert(tensors)
    assert_same_bits(convert(tensors | {"lm_head.weight": tensors["wte.weight"]}), expected)
    assert_same_bits(convert(tensors | {"lm_head.weight": tensors["wte.weight"].clone()}), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("own", DTYPES, ids=str)
def test_an_equal_head_in_another_dtype_is_the_embedding(tensors, own, dtype):
    """A head that was rounded, or one whose embedding was: equal in the coarser dtype."""
    coarse = min(own, dtype, key=lambda each: (each.itemsize, each != torch.float16))
    tensors = {key: tensor.to(coarse).to(own) for key, tensor in tensors.items()}
    head = tensors["wte.weight"].to(dtype)
    if {own, dtype} != {torch.float16, torch.bfloat16}:  # neither of these has the other's numbers
        assert_same_bits(convert(tensors | {"lm_head.weight": head}), convert(tensors))
    rounded = trained_like(CONFIG, seed=0)["wte.weight"].double().to(own)
    tensors["wte.weight"] = rounded
    assert_same_bits(
        convert(tensors | {"lm_head.weight": rounded.to(dtype)}),
        convert(tensors),
    )


@pytest.mark.parametrize("absent", ["lm_head.weight", "wte.weight"])
def test_a_matrix_that_the_config_does_not_tie_must_be_there(tensors, absent):
    untied = GPT2Config.from_dict(CONFIG.to_dict() | {"tie_word_embeddings": False})
    tensors["lm_head.weight"] = tensors["wte.weight"]
    both = from_tensors(tensors, untied)
    assert both.config == CONFIG  # the model has one matrix for both
    del tensors[absent]
    message = rf"^missing: {re.escape(absent)} \(the config has tie_word_embeddings=False"
    with pytest.raises(CheckpointError, match=message):
        from_tensors(tensors, untied)
    from_tensors(tensors, CONFIG)


def test_other_tensors_names_are_one_line_with_three_examples_of_each_side(tensors):
    others = {f"encoder.layers.{i}.linear.weight": torch.ones(1) for i in range(300)}
    for found in (others, others | {"wpe.weight": tensors["wpe.weight"]}):
        with pytest.raises(CheckpointError) as error:
            convert(found)
        lines = str(error.value).split("\n")
        assert len(lines) == 1
        assert re.match(r"the names are not GPT-2's: 13\d missing, such as (h\S+,? ?){3}", lines[0])
        assert lines[0].count("encoder.layers.") == 3
        assert lines[0].count("h.0.") == 3
        assert "300 unexpected" in lines[0]


def test_missing_biases_are_named_by_their_cause(tensors):
    without = {key: tensor for key, tensor in tensors.items() if not key.endswith(".bias")}
    with pytest.raises(
        CheckpointError, match=r"^missing: all 67 biases \(a model trained with bias=False has none"
    ):
        convert(without)
    without["ln_f.bias"] = tensors["ln_f.bias"]  # then it is something else
    with pytest.raises(CheckpointError, match=r"^missing: h\.0\.attn\.c_attn\.bias, "):
        convert(without)


def test_a_head_without_an_embedding_is_the_embedding(tensors):
    expected = convert(tensors)
    tensors["lm_head.weight"] = tensors.pop("wte.weight")
    assert_same_bits(convert(tensors), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.index_put((torch.tensor(6), torch.tensor(3)), torch.tensor(9.0)),
        lambda head: head[:6],
        lambda head: head.half() + 1,
        torch.Tensor.int,
    ],
    ids=["one value", "shape", "in another dtype", "no floating point"],
)
def test_a_head_that_differs_from_the_embedding_is_refused(tensors, change):
    tensors["lm_head.weight"] = change(tensors["wte.weight"])
    with pytest.raises(CheckpointError, match=r"^lm_head\.weight differs from wte\.weight"):
        convert(tensors)


def test_a_tensor_given_with_and_without_the_prefix_is_refused(tensors):
    tensors["transformer.ln_f.bias"] = tensors["ln_f.bias"]
    with pytest.raises(
        CheckpointError,
        match=r"^several names for one tensor: ln_f\.bias, transformer\.ln_f\.bias$",
    ):
        convert(tensors)


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_the_published_sizes_have_hugging_faces_tensors(name):
    config = PUBLISHED_CONFIGS[name]
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(transformers.GPT2Config(**config.to_dict())).state_dict()
        ours = GPT2(config)

    def shapes(state):
        return {key: tensor.shape for key, tensor in state.items()}

    assert shapes(from_hugging_face_tensors(theirs, config)) == shapes(ours.state_dict())
    assert shapes(to_hugging_face_tensors(ours)) | {
        "lm_head.weight": theirs["lm_head.weight"].shape
    } == shapes(theirs)
