"""A GPT-2 whose parameters, or whose files, are arranged otherwise than in the published ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conformance.adapters.recognised.recognise import NotRecognisedError
from conformance.adapters.recognised.written import Found
from conformance.checkpoints.tensors import trained_like, write_checkpoint
from tests.shared.head_files import EINSUM, LISTS
from tests.shared.model_files import NANO, encoder
from tests.shared.recognising import TINY, TOKEN_IDS, check_right, found_in, loaded

# Where the parameters are.

IN_OUT = "self.W_in, self.b_in = empty(cfg.d_model, cfg.d_mlp)"
OUT_IN = "self.W_out, self.b_out = empty(cfg.d_mlp, cfg.d_model)"
TURNED = {
    "into = cfg.n_heads, cfg.d_model, cfg.d_head": "into = cfg.n_heads, cfg.d_head, cfg.d_model",
    "bpd,ndh->bpnh": "bpd,nhd->bpnh",
    IN_OUT: IN_OUT.replace("d_model, cfg.d_mlp", "d_mlp, cfg.d_model"),
    OUT_IN: OUT_IN.replace("d_mlp, cfg.d_model", "d_model, cfg.d_mlp"),
    "self.W_in +": "self.W_in.mT +",
    "self.W_out +": "self.W_out.mT +",
}


def turned(text: str) -> str:
    """Return the file with the matrices of the heads and of the MLP stored the other way round."""
    for one, other in TURNED.items():
        assert one in text
        text = text.replace(one, other)
    return text


PLACES = {
    "a module for each head": LISTS.replace("BIAS", "True"),
    "a dimension for the heads": EINSUM,
    "such a dimension, [out, in]": turned(EINSUM),
    "a bias of the head": encoder(more="self.head.bias = nn.Parameter(torch.ones(vocab))"),
    "a spare block, and a spare norm in each layer": encoder(
        more="self.block = layer(); [setattr(each, 'norm3', nn.LayerNorm(width)) for each in "
        "self.layers]"
    ),
    "the layers in one list with the embeddings": encoder(
        more="self.all = nn.Sequential(self.token_embedding, *self.layers); del self.layers"
    ).replace("in self.layers:", "in self.all[1:]:"),
}


@pytest.mark.parametrize("text", PLACES.values(), ids=PLACES)
def test_parameters_are_found(text: str, found: Callable[..., Found], checkpoint: str) -> None:
    check_right(loaded(found(text), checkpoint), checkpoint)


def test_a_model_that_lacks_a_bias_is_judged_without_it(
    found: Callable[..., Found], checkpoint: str
) -> None:
    model = found(LISTS.replace("BIAS", "False"))
    assert "no place for h.#.attn.c_attn.bias, logits" in model.said
    logits = loaded(model, checkpoint).logits(TOKEN_IDS)
    truth = loaded(found(LISTS.replace("BIAS", "True")), checkpoint)
    for block in truth.model.blocks:
        for head in block.sa.heads:
            for part in (head.query, head.key, head.value):
                part.bias.data.zero_()
    torch.testing.assert_close(logits, truth.logits(TOKEN_IDS))


@pytest.mark.parametrize("width", [None, 1])
def test_what_a_model_lacks_must_be_in_the_file(
    width: int | None, found: Callable[..., Found], tmp_path: Path
) -> None:
    tensors = trained_like(TINY, seed=1)
    bias = tensors.pop("h.1.attn.c_attn.bias")
    if width is not None:
        tensors["h.1.attn.c_attn.bias"] = bias[:width].clone()
    path = str(write_checkpoint(tmp_path / "other", TINY, tensors))
    what = "no tensor" if width is None else r"\[1\]"
    with pytest.raises(ValueError, match=rf"c_attn\.bias: expected \[72\], found {what}"):
        loaded(found(LISTS.replace("BIAS", "False")), path)


def test_a_module_that_resizes_what_it_gets_does_not_get_another_shape(
    found: Callable[..., Found], tmp_path: Path
) -> None:
    own = (
        "class Positions(nn.Embedding):\n"
        "    def _load_from_state_dict(self, state, prefix, *rest):\n"
        "        state[prefix + 'weight'] = state[prefix + 'weight'].expand_as(self.weight)\n"
        "        super()._load_from_state_dict(state, prefix, *rest)\n"
    )
    model = found(encoder(before=own, more="self.positions = Positions(positions, width)"))
    tensors = trained_like(TINY, seed=1) | {"wpe.weight": torch.ones(1, 24)}
    with pytest.raises(ValueError, match=r"positions\.weight gets \[1, 24\]"):
        loaded(model, str(write_checkpoint(tmp_path / "other", TINY, tensors)))


def test_a_model_that_lacks_its_last_norm_is_judged_without_it(
    found: Callable[..., Found], checkpoint: str
) -> None:
    model = found(encoder(more="self.norm = nn.Identity()"))
    assert model.fit.missing == ["ln_f.weight", "ln_f.bias"]
    assert loaded(model, checkpoint).logits(TOKEN_IDS).isfinite().all()


def test_a_whole_gpt2_is_preferred_to_one_that_lacks_its_last_norm(
    found: Callable[..., Found],
) -> None:
    assert found(encoder(more="self.norm = nn.Identity()") + EINSUM).kind == "Transformer"


# Where the files are.

LAYERS, MODEL = NANO.split("@dataclass\n")
MODEL = (
    "import torch\nfrom dataclasses import dataclass\nfrom torch import nn\n"
    "from torch.nn import functional as F\nIMPORT\n\n@dataclass\n" + MODEL
)


@pytest.mark.parametrize(
    ("imports", "file"),
    [
        ("from src.models.layers import Block", "src/models/gpt.py"),
        ("from models.layers import Block", "src/models/gpt.py"),
        ("from layers import Block", "src/models/gpt.py"),
        ("from .layers import Block", "src/models/gpt.py"),
        ("from .layers import *", "src/models/gpt.py"),
        ("from ..models.layers import Block", "src/models/gpt.py"),
    ],
)
def test_the_imports_of_a_file_are_found_in_its_project(
    imports: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] in ("src", "models")]:
        monkeypatch.delitem(sys.modules, name)
    path = tmp_path / "my-gpt" / file
    path.parent.mkdir(parents=True)
    path.with_name("layers.py").write_text(LAYERS, encoding="utf-8")
    text = MODEL.replace("IMPORT", imports)
    check_right(loaded(found_in(path, text), checkpoint), checkpoint)


def test_a_folder_of_another_name_than_a_package_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "my-gpt" / "gpt_of_a_folder.py"
    path.parent.mkdir()
    path.with_name("__init__.py").write_text("", encoding="utf-8")
    check_right(loaded(found_in(path, NANO), checkpoint), checkpoint)


def test_a_package_that_is_missing_is_named(found: Callable[..., Found]) -> None:
    text = "from surely_not_installed import gelu\n" + NANO.replace("F.gelu(", "gelu(")
    with pytest.raises(NotRecognisedError, match="left out: No module named 'surely_not_inst"):
        found(text)


# How they are built.

FIELDS = {
    "of the tokens and the device": "eos_token_id, pad_idx, device",
    "of the mask": "is_causal, bidirectional",
    "of the MLP": "ff_mult",
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_fields_that_are_no_sizes_are_known(
    fields: str, found: Callable[..., Found], checkpoint: str
) -> None:
    model = encoder(
        ARGUMENTS=f"self, words, seq_len, dims, layers, heads, {fields}",
        SIZES="words, seq_len, dims, layers, heads",
    )
    check_right(loaded(found(model), checkpoint), checkpoint)


def test_a_notebook_is_read_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    sources = [
        "# A title",
        "%load_ext autoreload\n!pip install torch\n" + NANO.partition("class Block")[0],
        "%%bash\nls -l | wc",
        "class Block" + NANO.partition("class Block")[2],
        "def load(name):\n    return open(name)",
        "model = GPT(GPTConfig())\nraise SystemExit",
    ]
    kinds = ["markdown", *["code"] * (len(sources) - 1)]
    cells = [
        {"cell_type": kind, "source": source.splitlines(keepends=True)}
        for kind, source in zip(kinds, sources, strict=True)
    ]
    model = found_in(tmp_path / "my.ipynb", json.dumps({"cells": cells}))
    assert "judging GPT of my.ipynb (its definitions alone): built with GPTConfig" in model.said
    check_right(loaded(model, checkpoint), checkpoint)


def test_a_bias_of_any_name_is_switched_on(found: Callable[..., Found]) -> None:
    model = encoder(
        ARGUMENTS="self, words, seq_len, dims, layers, heads, add_attn_bias=False, no_bias=True",
        SIZES="words, seq_len, dims, layers, heads",
        MORE="assert add_attn_bias and not no_bias",
    )
    assert found(model).fit.whole


SIZES = {"vocab_size": 65, "block_size": 256, "n_embd": 384, "n_layer": 6, "n_head": 6}
CONFIGS = {
    "a class": ("class CFG:\n    " + "; ".join(f"{k} = {v}" for k, v in SIZES.items()), "CFG.{}"),
    "an object": (
        f"from types import SimpleNamespace\nconfig = SimpleNamespace(**{SIZES})",
        "config.{}",
    ),
    "a dictionary": (f"CONFIG = {SIZES}", 'CONFIG["{}"]'),
}


@pytest.mark.parametrize(("config", "field"), CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("argument", ["", ", vocab_size"])
def test_a_config_that_the_class_finds_itself(
    argument: str, config: str, field: str, found: Callable[..., Found], checkpoint: str
) -> None:
    sizes = [field.format(name) for name in SIZES if name != argument[2:]]
    model = found(
        encoder(
            before=config,
            ARGUMENTS=f"self{argument}",
            SIZES=", ".join([argument[2:], *sizes] if argument else sizes),
        )
    )
    check_right(loaded(model, checkpoint), checkpoint)


def test_constants_of_several_files_are_set_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    first, _, rest = LISTS.replace("BIAS", "True").partition("class Attention")
    imports, _, head = first.partition("class Head")
    for name in ("sizes_of_files", "head_of_files"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    constants = "; ".join(f"{name} = {value}" for name, value in SIZES.items())
    (tmp_path / "sizes_of_files.py").write_text(constants, encoding="utf-8")
    start = imports.partition("block_size,")[0] + "from sizes_of_files import *\n"
    (tmp_path / "head_of_files.py").write_text(f"{start}class Head{head}", encoding="utf-8")
    text = f"{start}from head_of_files import Head\nclass Attention{rest}"
    check_right(loaded(found_in(tmp_path / "model_of_files.py", text), checkpoint), checkpoint)
