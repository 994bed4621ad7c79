"""Finds a model's way to generate, as the text of an adapter's `generate`, and tries it out.

What the method can't do raises NotImplementedError in the adapter: its requirements are then not
applicable.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

from gpt2ref import EOS

from .fields import value_of
from .layout import wrapped

_ARGUMENTS = {
    r"(max|n|num|number)?(of)?(new)?(tokens|steps)(togenerate|generated)?|length": "max_new_tokens",
    r"temperature|temp": "temperature",
    r"topk|k": "top_k",
    r"dosample|sample": "temperature > 0",
    r"eos(token)?(id)?|endoftext(id)?|stop(token)?(id)?|pad(token)?(id)?": str(EOS),
    r"(random)?seed": "seed",
    r"topp": "1.0",
    r"device": "token_ids.device",
}
_OF_HUGGING_FACE = (
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "eos_token_id",
    "pad_token_id",
)
_MODEL = re.compile(r"model|gpt\w*|net|network|m")
_NAMES = re.compile(r"(generate|sample)\w*")


@dataclass(frozen=True)
class Generation:
    """A call that generates, and how its answer is to be read."""

    call: str  # an expression of self, token_ids and the options of a generate()
    name: str
    function: str = ""  # the function of the module that it calls, if it is no method
    by_row: bool = False
    with_prompt: bool = True
    ends_at_eos: bool = True
    greedy: bool = True  # whether it answers at temperature 0
    temperature: str = "any"  # or the only one that it has: "0", it is greedy, or "1"
    top_k: bool = True

    @property
    def said(self) -> str:
        """The method in words, with what it can't do."""
        cannot = [
            words
            for can, words in (
                (self.temperature == "any", f"temperature {self.temperature} alone"),
                (self.top_k, "no top_k"),
                (self.greedy, "temperature 0 divides by zero"),
                (self.ends_at_eos, "does not end at EOS"),
                (not self.by_row, "one row at a time"),
            )
            if not can
        ]
        return f"{self.name}()" + (f" ({', '.join(cannot)})" if cannot else "")

    @property
    def lines(self) -> list[str]:
        """The body of the adapter's generate."""
        lines = []
        if self.temperature != "any":
            reason = f"{self.name}() has temperature {self.temperature} alone"
            lines += [
                f"if temperature != {self.temperature}:",
                f'    raise NotImplementedError("{reason}")',
            ]
        if not self.top_k:
            reason = f"{self.name}() has no top_k"
            lines += ["if top_k is not None:", f'    raise NotImplementedError("{reason}")']
        if not self.greedy and self.temperature == "any":
            reason = f"{self.name}() divides by the temperature"
            lines += ["if temperature == 0:", f'    raise NotImplementedError("{reason}")']
        devices = "devices=range(torch.cuda.device_count())"
        lines += [f"with torch.random.fork_rng({devices}):", "    torch.manual_seed(seed)"]
        if self.by_row:
            call = textwrap.indent(self.call, " " * 8)
            lines += ["    rows = [", call, "        for row in token_ids", "    ]"]
            rows = "row[0].tolist() for row in rows"
        else:
            lines += [textwrap.indent(f"rows = {self.call}", " " * 4)]
            rows = "row.tolist() for row in rows"
        if self.with_prompt:
            rows = rows.replace(".tolist()", "[token_ids.size(1) :].tolist()")
        lines += [f"new = [{rows}]"]
        if self.ends_at_eos:
            lines += [f"return [row[: row.index({EOS})] if {EOS} in row else row for row in new]"]
        else:
            reason = f"{self.name}() does not end at EOS"
            lines += [
                f"if any({EOS} in row for row in new):",
                f'    raise NotImplementedError("{reason}")',
            ]
            lines += ["return new"]
        return lines


def candidates(module: ModuleType, model: nn.Module, refused: list[str]) -> Iterator[Generation]:
    """Yield the methods of the model that generate, then functions that take a model.

    `refused` gets the reason for each that can't be called.
    """
    for name, function in inspect.getmembers(model, callable):
        if _NAMES.fullmatch(name):
            yield from _called(f"self.model.{name}", function, 0, refused)
    for name, function in vars(module).items():
        if inspect.isfunction(function) and _NAMES.fullmatch(name):
            parameters = list(inspect.signature(function).parameters)
            if parameters and _MODEL.fullmatch(parameters[0]):
                for each in _called(name, function, 1, refused):
                    yield replace(each, function=name)


def _called(
    name: str, function: Callable[..., Any], skipped: int, refused: list[str]
) -> Iterator[Generation]:
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    given: dict[str, str] = {}
    for parameter in parameters[1:]:
        value = _value(parameter.name)
        if value is not None:
            given[parameter.name] = value
        elif parameter.default is parameter.empty and parameter.kind not in several:
            refused.append(f"{name}() needs {parameter.name}")
            return
    takes_more = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    if takes_more and "max_new_tokens" not in given.values():
        given |= {each: _value(each) or "" for each in _OF_HUGGING_FACE}
    if not parameters or "max_new_tokens" not in given.values():
        refused.append(f"{name}() has no max_new_tokens")
        return
    if "temperature > 0" in given.values():  # then the temperature is no longer asked
        given = {k: "temperature or 1.0" if v == "temperature" else v for k, v in given.items()}
    if "do_sample" in given and "pad_token_id" in given:  # transformers: 0 is no restriction
        given = {k: "top_k or 0" if v == "top_k" else v for k, v in given.items()}
    first = ["self.model", "token_ids"] if skipped else ["token_ids"]
    call = wrapped(f"{name}(", [*first, *(f"{k}={v}" for k, v in given.items())], ")")
    plain = name.removeprefix("self.model.")
    temperature = "any" if any(v.startswith("temperature") for v in given.values()) else "0"
    top_k = any(v.startswith("top_k") for v in given.values())
    yield Generation(call, plain, temperature=temperature, top_k=top_k)


def _value(name: str) -> str | None:
    plain = name.lower().replace("_", "")
    for rule, value in _ARGUMENTS.items():
        if re.fullmatch(rule, plain):
            return value
    return "self.c.n_positions" if value_of(name) == "c.n_positions" else None


Ask = Callable[..., Any]  # prompts and options, to the answer of the method itself


def tried(generation: Generation, blank: Ask, ends: Ask) -> Generation | None:
    """Try a method out; None if it gives no ids.

    `blank` and `ends` call it, on a model whose logits are all equal and on one that always says
    EOS. Raises what the method raises for one plain row.
    """
    prompt = torch.tensor([[1, 2, 3]])
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 1.0, "top_k": None}
    try:
        rows = blank(generation, torch.cat([prompt, prompt]), **options)
        if len(rows) != 2:
            return None
    except Exception:
        call = generation.call.replace("token_ids,", "row[None],", 1)
        generation = replace(generation, by_row=True, call=call)

    def ids(ask: Ask, **chosen: Any) -> list[int]:
        rows = ask(generation, prompt, **options | chosen)
        found: list[int] = torch.as_tensor(rows[0]).flatten().tolist()
        return found

    one, other = ids(blank, seed=1), ids(blank, seed=2)
    if len(one) not in (4, 7):
        return None
    with_prompt = len(one) == 7 and one[:3] == prompt[0].tolist()
    generation = replace(generation, with_prompt=with_prompt)
    if generation.temperature != "any" and one != other:
        generation = replace(generation, temperature="1")
    if generation.temperature == "any":
        try:
            ids(blank, temperature=0.0)
        except Exception as error:
            named = "temperature" in str(error).lower()  # a refusal, which the suite understands
            generation = replace(generation, greedy=named)
    new = ids(ends, top_k=1 if generation.top_k else None)[3 if with_prompt else 0 :]
    return replace(generation, ends_at_eos=new != [EOS] * 4)
