"""Finds the GPT-2 in a file that has no `load`: how it is built, filled and asked."""

from __future__ import annotations

import ast
import io
import linecache
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config as TransformersConfig
from transformers import __version__ as transformers_version

from gpt2ref import EOS, PUBLISHED_CONFIGS, GPT2Config

from ...checkpoints.tensors import Tensors, blank, write_checkpoint, write_sparse_checkpoint
from .building import SMALL, Building, ways
from .filling import handing_over
from .generation import Generation, candidates, tried
from .outputs import NoLogitsError, find_logits, unused_parameters
from .source import LEFT_OUT, NOTEBOOK, Source, definitions, find_source, imported
from .tensors import ZERO, Fit, fit, fit_without
from .written import Found, misfits, text

SHAPE = GPT2Config(
    vocab_size=SMALL["vocab_size"],
    n_positions=SMALL["n_positions"],
    n_embd=SMALL["n_embd"],
    n_layer=SMALL["n_layer"],
    n_head=SMALL["n_head"],
)
HELP = (
    "--write-adapter my_adapter.py writes what is known of it as an adapter to be completed, and "
    "--new-adapter my_adapter.py an empty one"
)


class NotRecognisedError(Exception):
    """A file has no `load`, and no GPT-2 that can be judged without one. `found` is the nearest."""

    def __init__(self, why: str, found: Found | None = None) -> None:
        super().__init__(why)
        self.found = found


@dataclass(frozen=True)
class _Tried:
    """A class, how it may be built, and how its parameters fit; or why it can't be built."""

    kind: str
    building: Building
    fit: Fit
    model: nn.Module
    shape: GPT2Config


def recognise(place: str, name: str) -> Found | None:
    """Return what a file or module contains; None if it has a function of this name.

    `name` is `load`, a class, or `Class.from_pretrained`. Raises NotRecognisedError.
    """
    source = find_source(place)
    if source is None:
        return None
    bound = source.names()
    if bound is None:  # a name may come from a module that it imports as a whole
        with suppress(NotRecognisedError), redirect_stdout(io.StringIO()):
            bound = {*vars(_module(source)[0])}
    if bound is None:
        return None
    kind, _, loading = name.partition(".")
    is_adapter = "load" in bound and source.path.suffix != NOTEBOOK
    if kind not in bound if kind != "load" else is_adapter:
        return None
    if kind != "load" and not loading and not source.class_with_forward(kind):
        return None
    silence = io.StringIO()  # models print their sizes, and transformers how far it has read
    with redirect_stdout(silence), redirect_stderr(silence), _forked():
        module, script = _module(source)
        chosen = [kind] if kind != "load" else _classes(module)
        if not chosen and not script:
            return None  # an import said so; it is not for this module to complain
        if not chosen:
            without = "; ".join(vars(module)[LEFT_OUT][:3])
            raise NotRecognisedError(
                f"{source.path.name} has no load(), and no nn.Module that can be defined "
                f"({without or 'it is a script'}). {HELP}"
            )
        if not loading:
            return _recognised(source, module, chosen, script)
        return _with_its_loading(source, module, kind, loading, script)


def _forked() -> AbstractContextManager[None]:
    """Keep the state of torch's generators, which a model draws from where it is made."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def recognise_class(kind: type[nn.Module], loading: str = "") -> Found:
    """Return what a class contains that is imported already, or was defined in a notebook.

    `loading` is the name of its author's method that fills it. Raises NotRecognisedError.
    """
    module = sys.modules[kind.__module__]
    if getattr(module, kind.__name__, None) is not kind:
        raise NotRecognisedError(
            "it is not a name of its module: define the class at the top level, or give a load()"
        )
    path = Path(getattr(module, "__file__", None) or "this notebook")
    folder = path.resolve().parents[kind.__module__.count(".")]
    source = Source(path, kind.__module__, folder, ast.Module([], []))
    silence = io.StringIO()
    with redirect_stdout(silence), redirect_stderr(silence), _forked():
        if loading:
            return _with_its_loading(source, module, kind.__name__, loading, False)
        return _recognised(source, module, [kind.__name__], False)


def load_of(found: Found) -> ModuleType:
    """Run the adapter's text, and return it as a module with a `load`."""
    module = ModuleType(f"adapter_of_{found.source.path.stem}")
    lines, name = text(found), f"<adapter of {found.source.path.name}>"
    linecache.cache[name] = (len(lines), None, lines.splitlines(keepends=True), name)
    exec(compile(lines, name, "exec"), vars(module))
    return module


def _module(source: Source) -> tuple[ModuleType, bool]:
    """Import a source, or run its definitions alone if it trains or a package is not installed."""
    missing = []
    try:
        if not source.trains:
            try:
                return imported(source), False
            except ModuleNotFoundError as error:
                missing = [str(error)]
        module = definitions(str(source.path))
        vars(module)[LEFT_OUT][:0] = missing
        return module, True
    except (Exception, SystemExit) as error:
        raise NotRecognisedError(f"importing {source.path.name} raised {_raised(error)}") from error


def _classes(module: ModuleType) -> list[str]:
    """Return the names of the classes that may be the model: those of the file, or else others."""
    kinds = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__name__ == name
    }
    own = [name for name, kind in kinds.items() if kind.__module__ == module.__name__]
    libraries = ("torch", "transformers")
    others = [
        name for name, kind in kinds.items() if kind.__module__.partition(".")[0] not in libraries
    ]
    return own or others


def _recognised(source: Source, module: ModuleType, kinds: list[str], script: bool) -> Found:
    whole: list[Found] = []
    nearest: _Tried | None = None
    reasons: dict[str, str] = {}
    for kind in kinds:
        attempt, why = _fitted(module, kind)
        if attempt is None:
            reasons[kind] = why
            continue
        if attempt.fit:
            found = Found(source, kind, None, script, attempt.building, attempt.fit)
            try:
                logits = find_logits(attempt.model.eval(), attempt.shape.vocab_size)
                whole.append(replace(found, logits=logits, any_shape=not attempt.building.built_in))
            except NoLogitsError as error:
                reasons[kind] = str(error)
        tensors = {origin.tensor for origin in attempt.fit.origins.values()} - {ZERO}
        if "wte.weight" not in tensors or len(tensors) == 1:  # it is a part of a model
            reasons.setdefault(kind, "it has no place for most of GPT-2's tensors")
        elif nearest is None or len(attempt.fit.origins) > len(nearest.fit.origins):
            nearest = attempt
    whole = [found for found in whole if found.fit.whole] or whole
    if len(whole) == 1:
        return _with_generation(whole[0], module)
    if whole:
        names = " and ".join(found.kind for found in whole)
        example = f"{source.path.name}:{whole[0].kind}"
        raise NotRecognisedError(f"{names} of {source.path.name} are GPT-2s: name one, {example}")
    raise _nothing(source, script, nearest, reasons, vars(module).get(LEFT_OUT, []))


def _nothing(
    source: Source,
    script: bool,
    nearest: _Tried | None,
    reasons: dict[str, str],
    left_out: list[str],
) -> NotRecognisedError:
    """Say how the class that comes nearest to a GPT-2 is none."""
    file = source.path.name
    missing = dict.fromkeys(each for each in left_out if each.startswith("No module named"))
    without = f"; left out: {', '.join(missing)}" if missing else ""
    if nearest is None:
        why = "; ".join(f"{kind}: {reason}" for kind, reason in list(reasons.items())[-3:])
        return NotRecognisedError(
            f"{file} has no load(), and no GPT-2 is recognised in it ({why}{without}). {HELP}"
        )
    found = Found(source, nearest.kind, None, script, nearest.building, nearest.fit)
    what = reasons.get(nearest.kind, "") if found.fit else misfits(found)
    return NotRecognisedError(
        f"{file} has no load(), and its {nearest.kind} is not recognised as a GPT-2: "
        f"{what}{without}. {HELP}",
        found,
    )


def _fitted(module: ModuleType, kind: str) -> tuple[_Tried | None, str]:
    """Build a class in each way that there is; return the one that fits best, or why none does."""
    best: _Tried | None = None
    refused: list[str] = []
    for building, shape in _shaped(module, getattr(module, kind), refused):
        try:
            c = TransformersConfig(**{name: getattr(shape, name) for name in SMALL})
            with torch.device("meta" if shape is not SHAPE else "cpu"):
                model = building.build(module, c)
            found = fit(model, shape)
            if found.homeless and shape is SHAPE and (unused := unused_parameters(model.eval())):
                found = fit_without(model, shape, unused)
                model = building.build(module, c)
        except Exception as error:
            refused.append(f"built with {building.said}: {type(error).__name__}: {error}")
            continue
        if best is None or len(found.origins) - len(found.homeless) > len(best.fit.origins) - len(
            best.fit.homeless
        ):
            best = _Tried(kind, building, found, model, shape)
        if found.whole:
            break
    if best and best.fit and best.shape is not SHAPE:
        best = replace(best, model=best.building.build(module, None))
    return best, refused[0] if refused else "it can't be built"


def _shaped(
    module: ModuleType, kind: type[nn.Module], refused: list[str]
) -> Iterator[tuple[Building, GPT2Config]]:
    for building in ways(module, kind, refused):
        if building.built_in:
            yield from ((building, shape) for shape in PUBLISHED_CONFIGS.values())
        else:
            yield building, SHAPE


def _with_its_loading(
    source: Source, module: ModuleType, kind: str, method: str, script: bool
) -> Found:
    """Recognise a class that its author's own method fills."""
    loading = f"{kind}.{method}"
    if not hasattr(getattr(module, kind, None), method):
        raise NotRecognisedError(f"{source.path.name} has no {loading}")

    def load(name: str) -> Any:  # looks it up anew: transformers' own method is replaced
        return getattr(getattr(module, kind), method)(name)

    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "gpt2"
        write_checkpoint(small, SHAPE, blank(SHAPE))
        model: Any = None
        with suppress(Exception), handing_over(str(small)):
            model = load("gpt2")
        widths = {SHAPE.n_embd} & {size for p in _parameters(model) for size in p.shape}
        if any_shape := bool(widths):
            shape = SHAPE
        else:
            shape = PUBLISHED_CONFIGS["gpt2"]
            write_sparse_checkpoint(large, shape)
            try:
                with handing_over(str(large)):
                    model = load("gpt2")
            except Exception as error:
                raise NotRecognisedError(
                    f"{loading}('gpt2') raised {_raised(error)}, where transformers "
                    f"{transformers_version} read the suite's checkpoint"
                ) from error
        try:
            logits = find_logits(model.eval(), shape.vocab_size)
        except NoLogitsError as error:
            raise NotRecognisedError(f"{loading}: {error}") from error
    found = Found(source, kind, logits, script, loading=loading, any_shape=any_shape)
    return _with_generation(found, module) if any_shape else found


def _raised(error: BaseException) -> str:
    """Say what was raised, and by which line if it says nothing itself."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{last.line} (line {last.lineno} of {Path(last.filename).name})"
    return f"{type(error).__name__}: {str(error) or where}"


def _parameters(model: Any) -> list[Tensor]:
    return list(model.parameters()) if isinstance(model, nn.Module) else []


def _with_generation(found: Found, module: ModuleType) -> Found:
    """Add the first method that generates, if there is one."""
    if not found.any_shape:  # generation is not asked of a published shape
        return found
    with tempfile.TemporaryDirectory() as folder:
        load = load_of(found).load
        models = []
        for name, tensors in (("blank", blank(SHAPE)), ("ends", _always_eos())):
            path = write_checkpoint(Path(folder) / name, SHAPE, tensors)
            models.append(load(str(path), device="cpu", dtype=torch.float32))
        chosen = list(candidates(module, models[0].model, []))
        # One that draws is preferred to one that is greedy alone.
        for generation in sorted(chosen, key=lambda each: each.temperature != "any"):
            with suppress(Exception):
                result = tried(generation, *(_asks(module, model) for model in models))
                if result:
                    return replace(found, generation=result)
    return found


def _asks(module: ModuleType, mine: Any) -> Any:
    def ask(generation: Generation, token_ids: Tensor, *, seed: int = 1, **options: Any) -> Any:
        names = {**vars(module), "self": SimpleNamespace(model=mine.model, c=mine.c)}
        names |= {"token_ids": token_ids, "seed": seed, **options}
        call = f"[{generation.call} for row in token_ids]" if generation.by_row else generation.call
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return eval(call, names)

    return ask


def _always_eos() -> Tensors:
    """Make tensors of a model that says EOS at each step."""
    tensors = blank(SHAPE)
    tensors["ln_f.bias"][0] = 1.0
    tensors["wte.weight"][EOS, 0] = 60.0
    return tensors
