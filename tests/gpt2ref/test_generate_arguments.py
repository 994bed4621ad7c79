"""`sample`, `generate` and `stream` refuse bad arguments before any work."""

import copy
import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from gpt2ref import generate, sample, stream
from gpt2ref.sampling import next_token

BAD_OPTIONS = [
    (ValueError, "max_new_tokens", -1),
    (TypeError, "max_new_tokens", 1.5),
    (TypeError, "max_new_tokens", True),
    (TypeError, "max_new_tokens", None),
    (TypeError, "max_new_tokens", "10"),
    (ValueError, "temperature", -0.1),
    (ValueError, "temperature", math.nan),
    (ValueError, "temperature", math.inf),
    (TypeError, "temperature", "1"),
    (TypeError, "temperature", True),
    (TypeError, "temperature", None),
    (ValueError, "top_k", 0),
    (ValueError, "top_k", -1),
    (TypeError, "top_k", 1.5),
    (TypeError, "top_k", True),
    (ValueError, "seed", -1),
    (TypeError, "seed", 1.5),
    (TypeError, "seed", True),
    (TypeError, "seed", "0"),
    (TypeError, "max_new_tokens", torch.tensor(True)),
    (TypeError, "max_new_tokens", torch.tensor([3])),
    (TypeError, "max_new_tokens", np.float64(3)),
    (ValueError, "max_new_tokens", np.int64(-1)),
    (TypeError, "temperature", np.bool_(True)),
    (TypeError, "temperature", torch.tensor([0.5])),
    (TypeError, "temperature", torch.tensor([[0.5]])),
    (TypeError, "temperature", np.array([0.5])),
    (TypeError, "temperature", np.complex64(1)),
    (TypeError, "temperature", b"1"),
    (ValueError, "temperature", 10**400),
    (TypeError, "top_k", torch.tensor(5.0)),
    (TypeError, "top_k", torch.tensor(True)),
    (TypeError, "top_k", np.float32(5)),
    (TypeError, "top_k", np.array([5])),
    (TypeError, "seed", torch.tensor([1, 2])),
    (TypeError, "seed", np.bool_(False)),
]


def refuse(*_):
    raise AssertionError("the model was run")


@pytest.fixture
def idle(model):
    """Make a model that must not be run."""
    model = copy.deepcopy(model)
    model.transformer.register_forward_pre_hook(refuse)
    return model


@pytest.fixture
def idle_tiny(tiny):
    model = copy.deepcopy(tiny)
    model.transformer.register_forward_pre_hook(refuse)
    return model


def test_a_model_without_numbers_is_refused(model):
    with pytest.raises(ValueError, match=r"^model: its weights are on the device meta, expected"):
        sample(copy.deepcopy(model).to("meta"), [[1]], max_new_tokens=1)


def test_a_model_that_must_not_be_run_says_so(idle):
    with pytest.raises(AssertionError, match="the model was run"):
        sample(idle, [[1]], max_new_tokens=1)


@pytest.mark.parametrize(("error", "name", "value"), BAD_OPTIONS)
def test_a_bad_option_is_refused_by_name_and_value(idle, error, name, value):
    options = {"max_new_tokens": 5, name: value}
    # A number of the right kind is shown as Python's: -1 for np.int64(-1).
    shown = re.escape(repr(value)) if error is TypeError else r"-?(inf|nan|[0-9.]+)"
    message = f"^{name}={shown}: expected "
    with pytest.raises(error, match=message):
        sample(idle, [[1, 2]], **options)
    with pytest.raises(error, match=message):
        generate("Hello", idle, **options)
    with pytest.raises(error, match=message):
        stream("Hello", idle, **options)


NUMBERS: list[dict[str, Any]] = [
    {
        "temperature": kind(0.75),
        "top_k": integer(5),
        "seed": integer(3),
        "max_new_tokens": integer(9),
    }
    for kind, integer in (
        (np.float32, np.int64),
        (np.float16, np.uint8),
        (np.array, np.array),
        (torch.tensor, torch.tensor),
        (Fraction, np.int16),
    )
]


@pytest.mark.parametrize("options", NUMBERS, ids=str)
def test_scalars_of_numpy_and_torch_are_numbers(model, options):
    plain: dict[str, Any] = {"temperature": 0.75, "top_k": 5, "seed": 3, "max_new_tokens": 9}
    text = generate("A", model, **plain)
    assert generate("A", model, **options) == text
    assert "A" + "".join(stream("A", model, **options)) == text
    assert sample(model, [[32]], **options) == sample(model, [[32]], **plain)
    rows: Any = [torch.tensor([32])]
    vocab_size: Any = np.int64(50257)
    assert sample(model, rows, **options, vocab_size=vocab_size) == sample(model, [[32]], **plain)
    logits, uniform = torch.randn(2, 50), torch.tensor([0.3, 0.9], dtype=torch.float64)
    setting = {name: options[name] for name in ("temperature", "top_k")}
    assert torch.equal(
        next_token(logits, uniform, **setting),
        next_token(logits, uniform, temperature=0.75, top_k=5),
    )
    zeros: tuple[Any, ...] = (np.float32(0), torch.tensor(0), np.int64(0))
    for zero in zeros:
        assert generate("A", model, max_new_tokens=5, temperature=zero) == generate(
            "A", model, max_new_tokens=5, temperature=0
        )


@pytest.mark.parametrize(("error", "name", "value"), BAD_OPTIONS)
def test_a_bad_option_is_refused_before_the_checkpoint_is_opened(error, name, value):
    for function in (generate, stream):
        with pytest.raises(error, match=f"^{name}="):
            function("Hello", "/no/such/checkpoint", **{name: value})


@pytest.mark.parametrize(
    ("error", "token_ids", "message"),
    [
        (ValueError, [[1], [2, -1]], "^token_ids: -1 in row 1, expected 0 to 96"),
        (ValueError, [[97]], "^token_ids: 97 in row 0, expected 0 to 96"),
        (ValueError, torch.tensor([[5, 97]]), "^token_ids: 97 in row 0"),
        (
            ValueError,
            [[]],
            "^token_ids: 50256 in row 0",
        ),  # this vocabulary has no end of text to start from
        (TypeError, [[1.0]], r"^token_ids: 1\.0 in row 0, expected an integer"),
        (TypeError, torch.tensor([[1.0]]), r"^token_ids: 1\.0 in row 0"),
        (TypeError, [[True]], "^token_ids: True in row 0"),
        (TypeError, [["1"]], "^token_ids: '1' in row 0"),
        (TypeError, [[None]], "^token_ids: None in row 0"),
        (TypeError, "ab", "^token_ids: 'a' in row 0"),
        (TypeError, [1, 2], r"^token_ids: \[1, 2\], expected rows"),
        (TypeError, torch.tensor([1, 2]), r"^token_ids: tensor\(\[1, 2\]\), expected rows"),
        (TypeError, 5, "^token_ids: 5, expected rows"),
        (TypeError, torch.tensor(5), "^token_ids: tensor"),
        (TypeError, None, "^token_ids: None, expected rows"),
    ],
)
def test_ids_out_of_range_are_refused_by_value_and_row(idle_tiny, error, token_ids, message):
    with pytest.raises(error, match=message):
        sample(idle_tiny, token_ids, max_new_tokens=5)


@pytest.mark.parametrize(
    "prompt", [None, 5, b"Hello", ["Hello", None], [b"Hello"], [[15496]], {"Hello": 1}], ids=repr
)
def test_a_prompt_that_is_no_text_is_refused(idle, prompt):
    with pytest.raises(
        TypeError, match=f"^prompt: {re.escape(repr(prompt))}, expected a str or a list"
    ):
        generate(prompt, idle)


@pytest.mark.parametrize("prompt", [None, 5, b"Hello", ["Hello"]], ids=repr)
def test_a_stream_has_one_prompt(idle, prompt):
    with pytest.raises(TypeError, match=f"^prompt: {type(prompt).__name__}, expected str"):
        stream(prompt, idle)


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"dtype": torch.float32}], ids=repr)
def test_device_and_dtype_of_a_loaded_model_cannot_be_chosen(idle, options):
    for function in (generate, stream):
        with pytest.raises(
            ValueError, match=r"^device=.*, dtype=.*: only for a checkpoint to load.* model\.to\(\)"
        ):
            function("Hello", idle, **options)


def test_text_needs_gpt2s_vocabulary(idle_tiny, tiny_folder):
    for model in (idle_tiny, tiny_folder):
        for function in (generate, stream):
            with pytest.raises(
                ValueError,
                match=r"^model: vocab_size=97, expected at least 50257, .*sample\(\) takes token",
            ):
                function("Hello", model)


def test_a_missing_checkpoint_is_an_error_at_the_call():
    for function in (generate, stream):
        with pytest.raises(FileNotFoundError, match="/no/such/checkpoint"):
            function("Hello", "/no/such/checkpoint")


def test_nan_logits_are_an_error(tiny):
    model = copy.deepcopy(tiny)
    model.transformer.ln_f.bias[0] = math.nan
    with pytest.raises(ValueError, match=r"^logits: .* row\(s\) \[0, 1\]"):
        sample(model, [[1], [2]], max_new_tokens=3)
