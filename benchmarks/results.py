"""What `pytest benchmarks/ --benchmark-json` wrote, read back and checked: one Result for each benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

NEWEST = 5  # pytest-benchmark's major version, the last whose JSON is known


class ResultsError(ValueError):
    """A file is no benchmark results, or not of a kind that is known. The message is one line."""


class Shape(NamedTuple):
    """The work of one generation. Within a shape, implementations and settings of the sampler can be compared."""

    size: str
    dtype: str
    batch: int
    prompt_length: int  # tokens
    new_tokens: int

    def __str__(self) -> str:
        return self.without("")

    def without(self, field: str) -> str:
        told = {
            "size": self.size,
            "dtype": self.dtype,
            "batch": f"batch {self.batch}",
            "prompt_length": f"prompt {self.prompt_length}",
            "new_tokens": f"{self.new_tokens} new tokens",
        }
        return ", ".join(words for name, words in told.items() if name != field)


class Cell(NamedTuple):
    """A setting of the sampler, as in `plan.Cell`, which costs the import of torch and of every peer."""

    temperature: float
    top_k: int | None

    def __str__(self) -> str:
        return f"temperature {self.temperature:g}, top-k {self.top_k or 'none'}"


GREEDY = Cell(0.0, None)


@dataclass(frozen=True)
class Result:
    """One row: an implementation in a cell and a shape."""

    implementation: str
    shape: Shape
    cell: Cell
    valid: bool
    rates: tuple[float, ...]  # decode tokens/s of each round; of an invalid row, none
    row: dict[str, Any]  # every field, by its name in the JSON

    @property
    def key(self) -> tuple[str, Shape, Cell]:
        return self.implementation, self.shape, self.cell

    @property
    def tokens_per_second(self) -> float:
        """The median round's decode tokens/s. Only of a valid row."""
        return float(self.row["decode_tokens_per_second"])

    @property
    def unstable(self) -> bool:
        return bool(self.row.get("unstable"))

    def number(self, *names: str) -> float | None:
        """A field that older files lack; with two names, a field of a field."""
        value: Any = self.row
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return float(value) if _is_number(value) else None


def read(path: str | Path) -> list[Result]:
    """Raises ResultsError, naming the file, if it can't be read or is not what it should be."""
    try:
        return _results(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, OverflowError) as error:
        raise ResultsError(f"{path}: not JSON that can be read: {error}") from error
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from error


def by_shape(results: Iterable[Result]) -> dict[Shape, list[Result]]:
    groups: dict[Shape, list[Result]] = {}
    for result in results:
        groups.setdefault(result.shape, []).append(result)
    return groups


def by_implementation(results: Iterable[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.implementation, []).append(result)
    return groups


def cells(results: Iterable[Result]) -> list[Cell]:
    """Those there are, from greedy on; no restriction comes after every top-k, being the widest of them."""
    return sorted(
        {result.cell for result in results},
        key=lambda cell: (cell.temperature, cell.top_k or math.inf),
    )


def plain_cell(results: Iterable[Result]) -> Cell:
    """The one to show where there is room for one: greedy without a restriction, or the next to it."""
    there = cells(results)
    return GREEDY if GREEDY in there else there[0]


def sweeps(results: Iterable[Result], field: str) -> list[list[Result]]:
    """Valid rows, of one cell, that differ in nothing but implementation and a field of Shape, which has several values."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.valid:
            groups.setdefault(result.shape.without(field), []).append(result)
    plain = [
        [result for result in group if result.cell == plain_cell(group)]
        for group in groups.values()
    ]
    return [group for group in plain if len({getattr(result.shape, field) for result in group}) > 1]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = (lambda value: isinstance(value, str), "a string")
_COUNT: _Check = (_is_count, "an integer of at least 1")
_RATE: _Check = (lambda value: _is_number(value) and value > 0, "a number above 0")

# Field -> what it must be. Other fields may be missing: older files lack them.
_NAMED = (
    "implementation",
    "size",
    "dtype",
    "device",
    "device_name",
    "python",
    "torch",
    "transformers",
)
_REQUIRED: dict[str, _Check] = {
    **dict.fromkeys(_NAMED, _TEXT),
    **dict.fromkeys(("batch", "prompt_length", "new_tokens", "rounds", "threads"), _COUNT),
    "temperature": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
    "top_k": (lambda value: value is None or _is_count(value), "an integer of at least 1 or null"),
    "valid": (lambda value: isinstance(value, bool), "true or false"),
}
_REQUIRED_OF_VALID: dict[str, _Check] = {
    "decode_tokens_per_second": _RATE,
    "samples": (lambda value: isinstance(value, list) and len(value) > 0, "a list of rounds"),
}


def _results(data: Any) -> list[Result]:
    if not (
        isinstance(data, dict)
        and isinstance(data.get("benchmarks"), list)
        and isinstance(data.get("version"), str)
    ):
        raise ResultsError(
            "not written by pytest --benchmark-json: expected an object with `benchmarks` and `version`"
        )
    major = data["version"].partition(".")[0]
    if not major.isdecimal() or int(major) > NEWEST:
        raise ResultsError(
            f"written by pytest-benchmark {data['version']!r}: expected {NEWEST} at most"
        )
    if not data["benchmarks"]:
        raise ResultsError("no rows: no benchmark was run")
    results = [_result(benchmark, number) for number, benchmark in enumerate(data["benchmarks"], 1)]
    seen = set()
    for result in results:
        if result.key in seen:
            raise ResultsError(
                f"two rows for {result.implementation}, {result.shape}, {result.cell}"
            )
        seen.add(result.key)
    return results


def _result(benchmark: Any, number: int) -> Result:
    row = benchmark.get("extra_info") if isinstance(benchmark, dict) else None
    if not isinstance(row, dict):
        raise ResultsError(f"benchmark {number}: no row: expected an object `extra_info`")
    where = f"benchmark {number}"
    _check(row, _REQUIRED, where)
    rates: Sequence[float] = ()
    if row["valid"]:
        _check(row, _REQUIRED_OF_VALID, where)
        rates = [_rate(sample, row["batch"], where) for sample in row["samples"]]
    shape = Shape(*(row[name] for name in Shape._fields))
    return Result(
        row["implementation"],
        shape,
        Cell(float(row["temperature"]), row["top_k"]),
        row["valid"],
        tuple(rates),
        row,
    )


def _check(row: dict[str, Any], fields: dict[str, _Check], where: str) -> None:
    for name, (is_right, expected) in fields.items():
        if name not in row:
            raise ResultsError(f"{where}: no field {name}: expected {expected}")
        if not is_right(row[name]):
            raise ResultsError(f"{where}: {name} is {_short(row[name])}: expected {expected}")


def _rate(sample: Any, batch: int, where: str) -> float:
    seconds = sample.get("decode_seconds") if isinstance(sample, dict) else None
    if not (isinstance(seconds, list) and all(map(_is_number, seconds)) and sum(seconds) > 0):
        raise ResultsError(
            f"{where}: a round of samples has decode_seconds {_short(seconds)}: expected seconds of each step"
        )
    return batch * len(seconds) / sum(seconds)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
