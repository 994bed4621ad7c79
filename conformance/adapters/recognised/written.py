"""Writes what was recognised as the text of an adapter. `load` of this text is what is judged."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from .building import Building
from .generation import Generation
from .layout import wrapped
from .outputs import Logits
from .source import Source
from .tensors import NAMES, ZERO, Fit, Origin

_SIGNATURE = "self, token_ids, *, max_new_tokens, temperature=1.0, top_k=None, seed=0"
_FOLLOWED = ("n_inner", "layer_norm_epsilon")
_INSTALLED = "gpt2ref_conformance"


@dataclass(frozen=True)
class Found:
    """The facts about a model that were found out.

    `building` and `fit` are absent where the model is filled by its author's `loading`, a method
    such as GPT.from_pretrained.
    """

    source: Source
    kind: str
    logits: Logits | None = None
    script: bool = False
    building: Building | None = None
    fit: Fit = field(default_factory=Fit)
    generation: Generation | None = None
    loading: str = ""
    any_shape: bool = True

    @property
    def said(self) -> str:
        """One line: what is judged, and what was found out of it."""
        parts = [f"by {self.loading}()"] if self.loading else []
        if self.building:
            parts += [f"built with {self.building.said}", _weights(self.fit)]
            parts += [f"no place for {_some(self.fit.missing, 'tensors')}"] * bool(self.fit.missing)
        parts += [self.logits.said] if self.logits else []
        if self.any_shape:  # generation is not asked of a published shape
            parts += [self.generation.said if self.generation else "no generate()"]
        whole = " (its definitions alone)" if self.script else ""
        return f"judging {self.kind} of {self.source.path.name}{whole}: {', '.join(parts)}"


def text(found: Found, *, complete: bool = True) -> str:
    """Return the text of an adapter. One that is not complete says what is to be done."""
    return "\n".join(
        [
            f'"""{found.kind} of {found.source.path.name}, as gpt2-conformance recognised it.',
            "",
            "    gpt2-conformance THIS_FILE",
            '"""',
            "",
            *([] if complete else ["# To be completed: the comments in PARAMETERS say where.", ""]),
            *_imports(found),
            "",
            *([*_parameters(found.fit), ""] if found.building else []),
            "",
            *_class(found),
            "",
            "",
            *_load(found),
            "",
        ]
    )


def _imports(found: Found) -> list[str]:
    package = _INSTALLED if find_spec(_INSTALLED) else __package__.split(".")[0]
    calls = ["read_config", "handing_over"] if found.loading else ["read_config", "fill"]
    if not found.any_shape:
        calls += ["published_name"]
    calls += ["definitions"] if found.script else []
    built = "\n".join(found.building.lines) if found.building else ""
    calls += ["set_fields"] if "set_fields(" in built else []
    names = list(found.building.names) if found.building else [found.kind]
    if found.generation and found.generation.function:
        names.append(found.generation.function)
    names = list(dict.fromkeys(names))
    lines = ["import sys", "from types import SimpleNamespace", "", "import torch", ""]
    if "SimpleNamespace" not in built:
        lines.remove("from types import SimpleNamespace")
    lines += [f"from {package}.adapters.recognised import {', '.join(sorted(calls))}", ""]
    if found.script:
        lines.remove("import sys")
        lines = lines[1:] if not lines[0] else lines
        lines += [
            f'source = definitions("{found.source.path.as_posix()}")  # does not run the script'
        ]
        return [*lines, *(f"{name} = source.{name}" for name in names)]
    lines += [wrapped("sys.path[:0] = [", [f'"{each}"' for each in found.source.folders], "]")]
    if "set_fields(" in built:
        lines += [f"import {found.source.name} as source"]
    return [*lines, f"from {found.source.name} import {', '.join(names)}"]


def _parameters(fit: Fit) -> list[str]:
    """Return the table of the parameters, in the order of GPT-2's tensors."""
    order = [*NAMES, ZERO]
    origins = sorted(fit.origins.items(), key=lambda item: order.index(item[1].tensor))
    lines = [
        "# The model's parameters, and GPT-2's tensor for each. # is the layer, T is transposed,",
        "# q, k or v is a third of the columns, and heads gives the heads a dimension in front.",
        "PARAMETERS = {",
        *(f'    "{name}": "{_origin(origin)}",' for name, origin in origins),
        *(f'    # "{name}": {why}' for name, why in fit.homeless.items()),
        *(f"    # no parameter gets {tensor}" for tensor in fit.missing),
    ]
    return [*lines, "}"]


def _origin(origin: Origin) -> str:
    turns = ["heads"] * origin.heads + ["T"] * origin.transposed
    return " ".join(filter(None, [origin.tensor, origin.part, *turns]))


def _class(found: Found) -> list[str]:
    logits = found.logits.expression if found.logits else "self.model(token_ids)  # change this"
    lines = [
        f"class {_name(found)}:",
        "    def __init__(self, model, c):",
        "        self.model, self.c = model, c",
        "",
        "    @torch.no_grad()",
        "    def logits(self, token_ids):  # [batch, time] -> [batch, time, vocab_size]",
        f"        return {logits}",
    ]
    if found.generation:
        lines += ["", "    @torch.no_grad()", f"    def generate({_SIGNATURE}):"]
        lines += [textwrap.indent(line, " " * 8) for line in found.generation.lines]
    return lines


def _load(found: Found) -> list[str]:
    lines = ["def load(checkpoint, *, device, dtype):"]
    if found.loading:
        lines += ["    c = read_config(checkpoint)"]
        name = (
            '"gpt2"  # any name: the shape is read'
            if found.any_shape
            else "published_name(checkpoint)"
        )
        lines += [f"    name = {name}", "    with handing_over(checkpoint):"]
        lines += [f"        model = {found.loading}(name)"]
    elif found.building:
        built = "\n".join(found.building.lines)
        follows = [name for name in _FOLLOWED if re.search(rf"\bc\.{name}\b", built)]
        more = f", follows={json.dumps(follows)}" if follows else ""
        lines += [f"    c = read_config(checkpoint{more})"]
        if not found.any_shape:
            lines += [
                "    published_name(checkpoint)  # raises NotImplementedError for another shape"
            ]
        lines += [textwrap.indent(line, "    ") for line in found.building.lines]
        missing = found.fit.missing
        lacks = f", lacks={json.dumps(missing)}" if found.fit and missing else ""
        lines += [f"    fill(model, checkpoint, PARAMETERS{lacks})"]
    return [*lines, f"    return {_name(found)}(model.to(device, dtype).eval(), c)"]


def _name(found: Found) -> str:
    """Name the adapter's class otherwise than the model's."""
    return "Mine" if found.kind != "Mine" else "MyGPT2"


def _weights(fit: Fit) -> str:
    turned = [
        origin.transposed
        for name, origin in fit.origins.items()
        if ".c_" in origin.tensor and origin.tensor.endswith("weight")
    ]
    orientation = (
        "matrices transposed"
        if all(turned)
        else "some matrices transposed"
        if any(turned)
        else "matrices as they are"
    )
    separate = any(origin.part for origin in fit.origins.values())
    return orientation + (", q, k and v apart" if separate else "")


def misfits(found: Found) -> str:
    """Say what of a model does not fit, three examples a side."""
    fit = found.fit
    parts = []
    if fit.homeless:
        parts.append(_some([f"{name} ({why})" for name, why in fit.homeless.items()], "parameters"))
    if fit.missing:
        parts.append("no parameter was found for " + _some(fit.missing, "tensors"))
    return "; ".join(parts)


def _some(names: Sequence[str], kind: str) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more {kind}" if len(names) > 3 else "")


EMPTY = '''"""An adapter for gpt2-conformance: fill in load() and logits().

    gpt2-conformance THIS_FILE
"""

import torch
from safetensors.torch import load_file
from transformers import GPT2Config


class Mine:
    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def logits(self, token_ids):
        """Token ids are int64 [batch, time]. Return float [batch, time, vocab_size]."""
        return self.model(token_ids)

    # def generate(self, token_ids, *, max_new_tokens, temperature=1.0, top_k=None, seed=0):
    #     """Return the new ids of each row, lists, without the EOS (50256) at its end."""


def load(checkpoint, *, device, dtype):
    """`checkpoint` is a folder with config.json and model.safetensors, as Hugging Face writes."""
    c = GPT2Config.from_pretrained(checkpoint)  # c.n_layer, c.n_head, c.n_embd, c.n_positions, ...
    if c.n_inner is not None or c.layer_norm_epsilon != 1e-5 or c.activation_function != "gelu_new":
        raise NotImplementedError("what my model does not follow is not applicable, never wrong")
    tensors = load_file(f"{checkpoint}/model.safetensors")  # matrices are [in, out], for x @ w
    raise NotImplementedError("build the model with c, fill it with these tensors, all of them")
    return Mine(model.to(device, dtype).eval())
'''
