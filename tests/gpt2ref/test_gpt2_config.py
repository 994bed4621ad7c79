import re
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from gpt2ref import EOS, GPT2, PUBLISHED_CONFIGS, GPT2Config

SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3"])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_must_be_a_positive_integer(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={re.escape(repr(value))}: "):
        GPT2Config(**{name: value})


@pytest.mark.parametrize("name", [name for name in SIZES if name != "n_inner"])
def test_only_n_inner_may_be_none(name):
    assert GPT2Config(n_inner=None).mlp_width == 4 * 768
    fields: dict[str, Any] = {name: None}
    with pytest.raises(ValueError, match=f"^{name}=None: "):
        GPT2Config(**fields)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"^n_head=5: .*n_embd=768"):
        GPT2Config(n_head=5)


@pytest.mark.parametrize("value", [0, 0.0, -1e-5, float("nan"), float("inf"), "1e-5", None, True])
def test_epsilon_must_be_a_positive_finite_number(value):
    with pytest.raises(ValueError, match=rf"^layer_norm_epsilon={re.escape(repr(value))}: "):
        GPT2Config(layer_norm_epsilon=value)


def test_widths_follow_from_the_fields():
    config = GPT2Config(n_embd=48, n_head=3)
    assert (config.head_width, config.mlp_width) == (16, 192)
    assert GPT2Config(n_embd=48, n_head=3, n_inner=7).mlp_width == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gptj"),
        ("activation_function", "relu"),
        ("activation_function", "gelu"),  # the exact form, with erf
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
    ],
)
def test_a_config_of_another_architecture_is_refused_by_field_and_value(field, value):
    with pytest.raises(ValueError, match=f"^{field}={value!r}: expected "):
        GPT2Config.from_dict({field: value})


def test_every_name_of_the_tanh_gelu_is_read_and_no_other():
    """Compare all of transformers' activations with the tanh form, where they differ most."""
    x = torch.cat([torch.linspace(-6, 6, 4001), torch.tensor([-30.0, 30.0])]).double()
    expected = torch.nn.functional.gelu(x, approximate="tanh")
    names = {
        name
        for name in ACT2FN
        if name not in ("xielu", "prelu")  # these have parameters
        and (ACT2FN[name](x) - expected).abs().max() < 1e-7  # gelu_fast has a constant of 10 digits
    }
    assert {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"} <= names
    for name in names:
        assert GPT2Config.from_dict({"activation_function": name}) == GPT2Config()
    for name in ACT2FN.keys() - names:
        with pytest.raises(ValueError, match=f"^activation_function={name!r}: expected "):
            GPT2Config.from_dict({"activation_function": name})


def test_training_fields_and_unknown_fields_are_ignored():
    fields = {
        "n_layer": 3,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "initializer_range": 0.02,
        "summary_type": "x",
        "new": 1,
    }
    assert GPT2Config.from_dict(fields) == GPT2Config(n_layer=3)


def test_a_bad_size_in_a_dict_is_refused_like_one_given_directly():
    with pytest.raises(ValueError, match=r"^n_layer=0: "):
        GPT2Config.from_dict({"n_layer": 0})


shapes = st.builds(
    lambda heads, width, **others: GPT2Config(n_head=heads, n_embd=heads * width, **others),
    st.integers(1, 9),
    st.integers(1, 9),
    vocab_size=st.integers(1, 60000),
    n_positions=st.integers(1, 2000),
    n_layer=st.integers(1, 60),
    n_inner=st.none() | st.integers(1, 99),
    layer_norm_epsilon=st.floats(1e-12, 1),
)


@given(shapes)
def test_a_config_is_restored_from_its_dict(config):
    assert GPT2Config.from_dict(config.to_dict()) == config


@given(shapes)
def test_hugging_face_reads_the_same_shape_from_the_dict(config):
    theirs = transformers.GPT2Config(**config.to_dict())
    for name in (*SIZES, "layer_norm_epsilon"):
        assert getattr(theirs, name) == getattr(config, name)
    assert GPT2Config.from_dict(theirs.to_dict()) == config


def test_the_dict_names_eos_if_the_vocabulary_has_it():
    full, small = GPT2Config().to_dict(), GPT2Config(vocab_size=EOS).to_dict()
    assert (full["bos_token_id"], full["eos_token_id"]) == (EOS, EOS)
    assert (small["bos_token_id"], small["eos_token_id"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124439808),
        ("gpt2-medium", 354823168),
        ("gpt2-large", 774030080),
        ("gpt2-xl", 1557611200),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = GPT2(PUBLISHED_CONFIGS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_default_config_is_the_smallest_published_one():
    assert GPT2Config() == PUBLISHED_CONFIGS["gpt2"]
    assert set(PUBLISHED_CONFIGS) == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}
