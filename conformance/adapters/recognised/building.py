"""Finds out how a model is built in a given shape: the statements that do it, as text.

The statements use `c`, a GPT2Config of transformers, and the names of the model's module, and bind
`model`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import nn

from .constants import configs_of, constants_of, set_fields
from .fields import SHAPE, holds_a_shape, value_of, values_of
from .layout import wrapped
from .source import UNKNOWN


@dataclass(frozen=True)
class Building:
    """A way to build a model.

    `lines`: the statements. `names`: what they use of the module. `said`: the way in a few words.
    `built_in`: whether the model has its shape in its source.
    """

    lines: tuple[str, ...]
    names: tuple[str, ...]
    said: str
    built_in: bool = False

    def build(self, module: ModuleType, c: Any) -> nn.Module:
        """Build the model. Raises what the model raises."""
        names = {**vars(module), "set_fields": set_fields, "source": module}
        names |= {"c": c, "device": "cpu"}
        exec("\n".join(("from types import SimpleNamespace", *self.lines)), names)
        return names["model"]


def ways(module: ModuleType, kind: type[nn.Module], refused: list[str]) -> Iterator[Building]:
    """Yield the ways in which a class may be built, the likeliest first.

    `refused` gets the reason why a config that answers every known field is not enough.
    """
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    by_keyword = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in by_keyword if p.default is p.empty]
    values = values_of(p.name for p in by_keyword)
    if holds_a_shape(values):
        lines = (_call(f"model = {kind.__name__}", values),)
        yield Building(lines, (kind.__name__,), _said("the arguments", values))
    first = next((p.name for p in by_keyword), None)
    if first is not None and len(needed) <= 1 and needed in ([], [first]):
        yield from _with_a_config(module, kind, by_keyword[0])
        yield from _with_a_made_up_config(kind, refused)
    yield from _with_constants(module, kind, needed)


def _with_a_config(
    module: ModuleType, kind: type[nn.Module], parameter: inspect.Parameter
) -> Iterator[Building]:
    made = f"model = {kind.__name__}(config)"
    lines: tuple[str, ...]
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        is_called = isinstance(method, (staticmethod, classmethod))
        if is_called and "default" in name and "config" in name:
            default = f"{kind.__name__}.{name}()"
            fields = vars(getattr(kind, name)())
            values = values_of(fields)
            if "model_type" in fields:  # else a size by name
                values["model_type"] = "None"
            lines = (f"config = {default}", _call("vars(config).update", values), made)
            yield Building(lines, (kind.__name__,), _said(default, values))
    for config in _config_classes(module, parameter):
        values = values_of(_arguments_of(config))
        names = (kind.__name__, config.__name__)
        if holds_a_shape(values):
            lines = (_call(f"config = {config.__name__}", values), made)
            yield Building(lines, names, _said(config.__name__, values))
            continue
        values = values_of(_attributes(config))
        lines = (f"config = {config.__name__}()", _call("vars(config).update", values), made)
        yield Building(lines, names, _said(config.__name__, values))


def _config_classes(module: ModuleType, parameter: inspect.Parameter) -> list[type]:
    """Return the classes with the fields of a GPT-2's shape, the annotated one first."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and not issubclass(value, nn.Module)
        and (
            holds_a_shape(values_of(_arguments_of(value)))
            or holds_a_shape(values_of(_attributes(value)))
        )
    ]
    annotation = parameter.annotation
    asked = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return sorted(dict.fromkeys(classes), key=lambda each: each.__name__ != asked)


def _arguments_of(kind: type) -> list[str]:
    try:
        return list(inspect.signature(kind).parameters)
    except (TypeError, ValueError):
        return []


def _attributes(kind: type) -> list[str]:
    """Return the attributes that an object of a class has, if it can be made without arguments."""
    try:
        if any(p.default is p.empty for p in inspect.signature(kind).parameters.values()):
            return []
        made = kind()
        return [name for name in dir(made) if not name.startswith("_")]
    except Exception:
        return []


def _with_a_made_up_config(kind: type[nn.Module], refused: list[str]) -> Iterator[Building]:
    """Build the model with a config that answers any known field, and note what it was asked."""
    from transformers import GPT2Config

    record = _Record(GPT2Config(**SMALL))
    try:
        kind(record)
    except Exception as error:
        unknown = f"its config is asked for {', '.join(record.unknown)}" if record.unknown else ""
        refused.append(unknown or f"{type(error).__name__}: {error}")
        return
    values = values_of(record.asked)
    if record.as_mapping:
        pairs = [f'"{name}": {value}' for name, value in values.items()]
        lines = [wrapped("config = {", pairs, "}")]
        lines += [f'config["{name}"] = config' for name in record.nested]
    else:
        lines = [_call("config = SimpleNamespace", values)]
        lines += [f"config.{name} = config" for name in record.nested]
    kinds = "a dictionary" if record.as_mapping else "an object"
    yield Building(
        (*lines, f"model = {kind.__name__}(config)"), (kind.__name__,), _said(kinds, values)
    )


def _with_constants(
    module: ModuleType, kind: type[nn.Module], needed: list[str]
) -> Iterator[Building]:
    """Set the constants, or the fields of a config of the module, that hold a shape.

    If there are none, and the model needs no arguments, its shape is built in.
    """
    arguments = values_of(needed)
    if len(arguments) < len(needed):
        return
    made = _call(f"model = {kind.__name__}", arguments)
    values = values_of(constants_of(module))
    for name, value in values_of(sorted(vars(module).get(UNKNOWN, ()))).items():
        if value in SHAPE and value not in values.values():
            values[name] = value
    if holds_a_shape(values | arguments):
        said = _said("the module's constants", values)
        yield Building((_call("set_fields", values, "source"), made), (kind.__name__,), said)
    for name, fields in configs_of(module):
        values = values_of(fields)
        if holds_a_shape(values | arguments):
            line = _call("set_fields", values, f"source.{name}")
            yield Building((line, made), (kind.__name__,), _said(f"the module's {name}", values))
    if not needed:
        yield Building((made,), (kind.__name__,), "its built-in shape", built_in=True)


# All sizes differ, so that a tensor's shape tells what it is. The vocabulary is GPT-2's, with EOS.
SMALL = {"vocab_size": 50257, "n_positions": 23, "n_embd": 20, "n_layer": 3, "n_head": 5}


# Fields that hold the fields of a model's shape, in a config of more than the model.
_NESTED = ("model", "gpt", "transformer", "architecture", "network", "model_config")


@dataclass
class _Record:
    """Answers `config.field` and `config["field"]` by the field's name."""

    shape: Any
    asked: dict[str, None] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    nested: dict[str, None] = field(default_factory=dict)
    as_mapping: bool = False

    def __getattr__(self, name: str) -> Any:
        value = value_of(name)
        if name in _NESTED:
            self.nested[name] = None
            return self
        if value is None or name.startswith("__"):
            if not name.startswith("__"):
                self.unknown.append(name)
            raise AttributeError(name)
        self.asked[name] = None
        return eval(value, {"c": self.shape, "device": "cpu"})

    def __getitem__(self, name: str) -> Any:
        self.as_mapping = True
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(name) from error

    def get(self, name: str, default: Any = None) -> Any:
        self.as_mapping = True
        return default if value_of(name) is None else getattr(self, name)


def _call(function: str, values: Mapping[str, str], *first: str) -> str:
    named = [f"{name}={value}" for name, value in values.items()]
    return wrapped(f"{function}(", [*first, *named], ")")


def _said(maker: str, values: Mapping[str, str]) -> str:
    fields = ", ".join(name for name, value in values.items() if "c." in value)
    return f"{maker}({fields})" if maker.isidentifier() else f"{maker} with {fields}"
