"""A file with a GPT-2 and no adapter: how it is built, filled and asked is found out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conformance.adapters.adapter import Adapter
from conformance.adapters.recognised.recognise import NotRecognisedError
from conformance.adapters.recognised.written import Found
from conformance.checkpoints.tensors import trained_like, write_checkpoint
from tests.shared.judging import ROOT
from tests.shared.model_files import NANO, SEPARATE, encoder, of_config
from tests.shared.recognising import TINY, check_right, loaded

# How a class is built.

FIELDS = "config.vocab_size, config.block_size, config.n_embd, config.n_layer, config.n_head"
CONFIGS = {
    "keywords": encoder(),
    "keywords with a hidden_dim": encoder(
        ARGUMENTS="self, vocab_size, context_length, hidden_dim, n_layers, n_heads",
        SIZES="vocab_size, context_length, hidden_dim, n_layers, n_heads",
    ),
    "a plain class, and one for the training": encoder(
        before="class TrainConfig:\n    batch_size, max_iters, vocab_size = 8, 10, 5\n"
        "class Config:\n    def __init__(self):\n"
        "        self.vocab_size, self.block_size, self.n_embd = 1, 1, 1\n"
        "        self.n_layer = self.n_head = 1\n",
        **of_config(),
    ),
    "a dictionary": encoder(
        ARGUMENTS="self, cfg",
        SIZES='cfg["vocab_size"], cfg["context_length"], cfg["emb_dim"], cfg.get("n_layers"), '
        'cfg["n_heads"]',
    ),
    "an object": encoder(
        **of_config(
            "config.n_vocab, config.n_ctx, config.hidden_size, config.num_hidden_layers, "
            "config.num_attention_heads"
        )
    ),
    "a default of the class": encoder(
        before="from types import SimpleNamespace",
        methods="@staticmethod\ndef get_default_config():\n"
        "    return SimpleNamespace(model_type='gpt', vocab_size=None, block_size=None, "
        "n_embd=None, n_layer=None, n_head=None)",
        more="assert config.model_type is None",
        **of_config(),
    ),
    "constants of the module": encoder(
        before="vocab_size, block_size, n_embd, n_layer, n_head = 65, 256, 384, 6, 6\n",
        ARGUMENTS="self",
        SIZES="vocab_size, block_size, n_embd, n_layer, n_head",
    ),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_class_is_built_from_a_shape(
    config: str, found: Callable[..., Found], checkpoint: str
) -> None:
    check_right(loaded(found(CONFIGS[config]), checkpoint), checkpoint)


def test_a_config_field_without_a_known_meaning_is_named(found: Callable[..., Found]) -> None:
    text = encoder(**of_config(f"{FIELDS} // config.slices"))
    with pytest.raises(NotRecognisedError, match="its config is asked for slices"):
        found(text)


def test_sizes_in_the_source_are_those_of_a_published_model(
    found: Callable[..., Found], checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model stands in for a published one."""
    small = replace(TINY, n_positions=31)
    for place in ("recognise", "filling"):
        module = f"conformance.adapters.recognised.{place}.PUBLISHED_CONFIGS"
        monkeypatch.setattr(module, {"gpt2-medium": small})
    result = found(encoder(ARGUMENTS="self", SIZES="50257, 31, 24, 2, 3"))
    assert not result.any_shape
    assert "built with its built-in shape, matrices transposed" in result.said
    with pytest.raises(NotImplementedError, match="knows the published shapes alone"):
        loaded(result, checkpoint)


# Where GPT-2's tensors go.


def test_names_of_hugging_face(found: Callable[..., Found], checkpoint: str) -> None:
    result = found(NANO)
    check_right(loaded(result, checkpoint), checkpoint)
    assert result.said == (
        "judging GPT of model.py: built with GPTConfig(block_size, vocab_size, n_layer, n_head, "
        "n_embd), matrices transposed, logits from output 0 with targets given, "
        "generate() (temperature 0 divides by zero, does not end at EOS)"
    )
    assert f"\n{result.said}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_q_k_and_v_apart(found: Callable[..., Found], checkpoint: str) -> None:
    result = found(SEPARATE)
    check_right(loaded(result, checkpoint), checkpoint)
    assert "matrices transposed, q, k and v apart, logits are its output" in result.said


def test_positions_may_be_a_parameter_with_a_batch_of_one(
    found: Callable[..., Found], checkpoint: str
) -> None:
    text = encoder().replace("nn.Embedding(positions,", "nn.Parameter(torch.zeros(1, positions,")
    text = text.replace("(1, positions, width)", "(1, positions, width))")
    text = text.replace("self.positions(torch.arange(time))", "self.positions[:, :time]")
    check_right(loaded(found(text), checkpoint), checkpoint)


CONV1D = """
class Conv1D(nn.Module):
    def __init__(self, n_in, n_out, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))
    def forward(self, x):
        return x @ self.weight + self.bias
"""
BLOCKS = NANO.replace("nn.Linear(", "Conv1D(").replace("lm_head = Conv1D", "lm_head = nn.Linear")


def with_conv1d(name: str = "Conv1D", change: Callable[[str], str] = str) -> str:
    """Return a nanoGPT whose projections are of an own class, [in, out]."""
    start, end = BLOCKS.split("\n\nclass Attention")
    return f"{start}\n{change(CONV1D)}\n\nclass Attention{end}".replace("Conv1D", name)


def test_matrices_of_a_conv1d_are_taken_as_they_are(
    found: Callable[..., Found], checkpoint: str
) -> None:
    result = found(with_conv1d())
    check_right(loaded(result, checkpoint), checkpoint)
    assert "matrices as they are" in result.said


@pytest.mark.parametrize("transposed", [False, True])
def test_a_class_with_one_matrix_is_known_by_one_that_is_not_square(
    transposed: bool, found: Callable[..., Found], checkpoint: str
) -> None:
    def transpose(text: str) -> str:
        text = text.replace("randn(n_in, n_out)", "randn(n_out, n_in)")
        return text.replace("self.weight + ", "self.weight.t() + ")

    check_right(
        loaded(found(with_conv1d("Dense", transpose if transposed else str)), checkpoint),
        checkpoint,
    )


def test_a_square_matrix_without_a_type_is_refused(found: Callable[..., Found]) -> None:
    text = NANO.replace(
        "self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)",
        "self.c_proj = nn.Parameter(torch.zeros(config.n_embd, config.n_embd))",
    ).replace("self.c_proj(mixed", "F.linear(mixed")
    reason = r"c_proj \(is \[20, 20\] in a Attention, which does not say whether it is \[in, out\]"
    with pytest.raises(NotRecognisedError, match=reason):
        found(text)


def test_projections_that_no_name_tells_apart_are_refused(found: Callable[..., Found]) -> None:
    text = SEPARATE
    for number, name in enumerate(("W_query", "W_key", "W_value", "out_proj")):
        text = text.replace(name, f"lin{number}")
    with pytest.raises(NotRecognisedError, match="may be q, k, v or the projection") as caught:
        found(text)
    assert str(caught.value).count("may be q") == 3  # of four
    assert "and 1 more" in str(caught.value) or "more parameters" in str(caught.value)


def test_what_a_gpt2_does_not_have_and_what_a_model_lacks_is_named(
    found: Callable[..., Found],
) -> None:
    text = NANO.replace(
        "self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)",
        "self.c_fc = nn.Linear(config.n_embd, 5 * config.n_embd, bias=False)",
    )
    with pytest.raises(NotRecognisedError) as caught:
        found(text)
    why = str(caught.value)
    named = "transformer.h.#.mlp.c_fc.weight (goes from 20 to 100)"
    assert f"its GPT is not recognised as a GPT-2: {named}; no parameter" in why
    assert "no parameter was found for h.#.mlp.c_fc.weight, h.#.mlp.c_fc.bias. --write-" in why


@pytest.mark.parametrize("name", ["wte.weight", "h.1.ln_1.bias"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(
    name: str, found: Callable[..., Found], tmp_path: Path
) -> None:
    tensors = trained_like(TINY, seed=1)
    del tensors[name]
    with pytest.raises(ValueError, match=f"no tensor {name}"):
        loaded(found(NANO), str(write_checkpoint(tmp_path / "lacking", TINY, tensors)))


def test_a_tensor_too_much_and_one_of_another_shape_are_refused(
    found: Callable[..., Found], tmp_path: Path
) -> None:
    result, tensors = found(NANO), trained_like(TINY, seed=1)
    more = tensors | {"h.2.ln_1.weight": torch.ones(24)}
    with pytest.raises(ValueError, match=r"without a place in the model: h\.2\.ln_1\.weight"):
        loaded(result, str(write_checkpoint(tmp_path / "more", TINY, more)))
    other = tensors | {"wpe.weight": torch.ones(1, 24)}
    with pytest.raises(
        ValueError, match=r"wpe\.weight gets \[1, 24\], where the model has \[13, 24\]"
    ):
        loaded(result, str(write_checkpoint(tmp_path / "other", TINY, other)))


def test_a_config_that_the_model_does_not_follow_is_not_applicable(
    found: Callable[..., Found], tmp_path: Path
) -> None:
    fields = {"layer_norm_epsilon": 0.5}
    folder = write_checkpoint(tmp_path / "c", TINY, trained_like(TINY, seed=1), fields)
    with pytest.raises(NotImplementedError, match=r"does not follow layer_norm_epsilon=0\.5"):
        loaded(found(NANO), str(folder))
    text = NANO.replace(
        "    bias: bool = False\n", "    bias: bool = False\n    eps: float = 1e-5\n"
    )
    loaded(found(text, file="follows.py"), str(folder))


# What a model returns.

OUTPUTS = {
    "logits": "logits are its output",
    "(None, logits)": "logits from output 1",
    '{"loss": None, "logits": logits}': "logits from the output's",
    "SimpleNamespace(logits=logits)": "logits from the output's logits",
    "logits if labels is not None else logits[:, -1]": "with labels given",
    "(logits.flatten(0, 1), 0) if labels is not None else (logits[:, [-1]], 0)": (
        "output 0 by rows with labels given"
    ),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_logits_are_found_in_the_output(
    output: str, found: Callable[..., Found], checkpoint: str
) -> None:
    result = found(encoder(before="from types import SimpleNamespace", output=output))
    assert OUTPUTS[output] in result.said
    check_right(loaded(result, checkpoint), checkpoint)


def test_a_model_that_needs_targets_gets_them(found: Callable[..., Found], checkpoint: str) -> None:
    result = found(NANO.replace("targets=None", "targets"))
    assert result.said.endswith("logits from output 0 with targets given, no generate()")
    check_right(loaded(result, checkpoint), checkpoint)


def test_a_model_of_the_last_position_alone_is_refused(found: Callable[..., Found]) -> None:
    reason = r"returns a tensor \[2, 1, 50257\]; .* with labels given, and none of it is the logits"
    with pytest.raises(NotRecognisedError, match=reason):
        found(encoder(output="logits[:, [-1]]"))


# Which class, and from where.


def test_two_gpt2s_in_one_file_are_named(found: Callable[..., Found], checkpoint: str) -> None:
    text = encoder() + "\nclass Other(GPT):\n    pass\n"
    with pytest.raises(NotRecognisedError, match=r"GPT and Other of .*: name one, model\.py:GPT"):
        found(text)
    check_right(loaded(found(text, "GPT"), checkpoint), checkpoint)


SCRIPT = (
    "import no_such_package\nfrom pathlib import Path\n"
    "device = 'cuda' if Path('/no').exists() else 'cpu'\nscale = float('1.0')\n"
    + encoder(more="self.scale = scale")
    + "\nmodel = GPT(5, 5, 8, 1, 1)\nwhile True:\n    raise SystemExit('it trains')\n"
)


def test_a_script_that_trains_is_not_run(found: Callable[..., Found], checkpoint: str) -> None:
    result = found(SCRIPT)
    assert "model.py (its definitions alone)" in result.said
    check_right(loaded(result, checkpoint), checkpoint)


def test_a_file_of_a_package_is_imported_from_it(
    found: Callable[..., Found], checkpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "my_package").mkdir()
    for name in ("__init__", "settings"):
        (tmp_path / f"my_package/{name}.py").write_text("DEPTH = 1\n", encoding="utf-8")
    text = encoder(before="from my_package.settings import DEPTH\nfrom . import settings")
    check_right(loaded(found(text, file="my_package/model.py"), checkpoint), checkpoint)


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    adapters = []
    for number, text in enumerate((NANO, SEPARATE)):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "model.py"
        path.write_text(text, encoding="utf-8")
        adapters.append(Adapter(str(path), "cpu", torch.float32))
    assert [adapter.found and adapter.found.kind for adapter in adapters] == ["GPT", "GPTModel"]


def test_an_import_that_fails_and_a_file_without_a_model_are_said(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        encoder(before="part = torch.no_such_part"), encoding="utf-8"
    )
    with pytest.raises(pytest.UsageError, match=r"importing model\.py raised AttributeError"):
        Adapter(str(tmp_path / "model.py"), "cpu", torch.float32)
    (tmp_path / "lacking.py").write_text("from no_such_module import Block\nclass A(Block): ...")
    with pytest.raises(
        pytest.UsageError, match=r"can be defined \(No module named 'no_such_module'"
    ):
        Adapter(str(tmp_path / "lacking.py"), "cpu", torch.float32)
    (tmp_path / "nothing.py").write_text("from torch import nn\n", encoding="utf-8")
    with pytest.raises(pytest.UsageError, match=r"nothing has no function load\(\)"):
        Adapter(str(tmp_path / "nothing.py"), "cpu", torch.float32)


def test_an_import_that_takes_long_is_announced(
    found: Callable[..., Found], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("conformance.adapters.recognised.source.PATIENCE", 0.1)
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    found("import time\n_ = time.sleep(0.5)\n" + encoder())
    assert "model.py has been importing for" in capfd.readouterr().err
