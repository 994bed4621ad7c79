"""Read and check what `pytest benchmarks/ --benchmark-json` wrote: a Result for each benchmark.

This module imports neither torch nor an implementation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .sampling import Sampling

NEWEST = 5  # the newest major version of pytest-benchmark whose JSON this module reads
GREEDY = Sampling(0.0, None)
MOST_PERCENT = 110  # of the bandwidth limit: a faster result is impossible


class ResultsError(ValueError):
    """A file has no benchmark results, or an unknown format. The message is one line."""


class Shape(NamedTuple):
    """The size of one generation. Results of one shape can be compared with each other."""

    size: str
    dtype: str
    batch: int
    prompt_length: int  # tokens
    new_tokens: int

    def __str__(self) -> str:
        return self.without("")

    def without(self, field: str) -> str:
        """Describe all fields but one."""
        words = {
            "size": self.size,
            "dtype": self.dtype,
            "batch": f"batch {self.batch}",
            "prompt_length": f"prompt {self.prompt_length}",
            "new_tokens": f"{self.new_tokens} new tokens",
        }
        return ", ".join(text for name, text in words.items() if name != field)


@dataclass(frozen=True)
class Result:
    """An implementation at one setting of the sampler, in one shape."""

    implementation: str
    shape: Shape
    sampling: Sampling
    valid: bool
    rates: tuple[float, ...]  # decode tokens/s of each round; none if the result is invalid
    fields: dict[str, Any]  # all fields, by their names in the JSON: see result_fields.py

    @property
    def key(self) -> tuple[str, Shape, Sampling]:
        return self.implementation, self.shape, self.sampling

    @property
    def name(self) -> str:
        return f"{self.implementation}, {self.shape}, {self.sampling.words}"

    @property
    def tokens_per_second(self) -> float:
        """Decode tokens/s of the median round. An invalid result may have none."""
        return float(self.fields["decode_tokens_per_second"])

    @property
    def unstable(self) -> bool:
        return bool(self.fields.get("unstable"))

    def number(self, *names: str) -> float | None:
        """Return a field, or with two names a field of a field. None if the file lacks it."""
        value: Any = self.fields
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return float(value) if _is_number(value) else None


def read(path: str | Path) -> list[Result]:
    """Return the results of a file. Raises ResultsError, which names the file, if it has none."""
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


def samplings(results: Iterable[Result]) -> list[Sampling]:
    """Return the settings of the sampler, ascending. No limit comes after every top-k."""
    return sorted(
        {result.sampling for result in results},
        key=lambda sampling: (sampling.temperature, sampling.top_k or math.inf),
    )


def default_sampling(results: Iterable[Result]) -> Sampling:
    """Return the setting to show where there is room for one: greedy, or else the first."""
    there = samplings(results)
    return GREEDY if GREEDY in there else there[0]


def varying(results: Iterable[Result], field: str) -> list[list[Result]]:
    """Group the valid results that differ only in the implementation and in a field of Shape.

    Each group is at one setting of the sampler, and has several values of the field.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.valid:
            groups.setdefault(result.shape.without(field), []).append(result)
    at_default = [
        [result for result in group if result.sampling == default_sampling(group)]
        for group in groups.values()
    ]
    return [
        group for group in at_default if len({getattr(result.shape, field) for result in group}) > 1
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = (lambda value: isinstance(value, str), "a string")
_COUNT: _Check = (_is_count, "an integer of at least 1")
_RATE: _Check = (lambda value: _is_number(value) and value > 0, "a number above 0")

# Field -> what it must be. Other fields may be missing, as older files lack them.
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
            "not written by pytest --benchmark-json: "
            "expected an object with `benchmarks` and `version`"
        )
    major = data["version"].partition(".")[0]
    if not major.isdecimal() or int(major) > NEWEST:
        raise ResultsError(
            f"written by pytest-benchmark {data['version']!r}: expected {NEWEST} at most"
        )
    if not data["benchmarks"]:
        raise ResultsError("no results: no benchmark was run")
    results = [_result(benchmark, number) for number, benchmark in enumerate(data["benchmarks"], 1)]
    seen = set()
    for result in results:
        if result.key in seen:
            raise ResultsError(f"two results for {result.name}")
        seen.add(result.key)
    return results


def _result(benchmark: Any, number: int) -> Result:
    fields = benchmark.get("extra_info") if isinstance(benchmark, dict) else None
    if not isinstance(fields, dict):
        raise ResultsError(f"benchmark {number}: no result: expected an object `extra_info`")
    where = f"benchmark {number}"
    _check(fields, _REQUIRED, where)
    rates: Sequence[float] = ()
    if fields["valid"]:
        _check(fields, _REQUIRED_OF_VALID, where)
        rates = [_rate(sample, fields["batch"], where) for sample in fields["samples"]]
        if reason := _too_fast(fields):
            fields, rates = fields | {"valid": False, "reason": reason}, ()
    shape = Shape(*(fields[name] for name in Shape._fields))
    sampling = Sampling(float(fields["temperature"]), fields["top_k"])
    return Result(fields["implementation"], shape, sampling, fields["valid"], tuple(rates), fields)


def _too_fast(fields: dict[str, Any]) -> str | None:
    """Return why a result of an older file, which counts there, is impossible. None if it is not.

    The earlier versions of the benchmarks did not look for this.
    """
    percent, limit = (
        fields[name] if _is_number(fields.get(name)) else 0.0
        for name in ("bandwidth_percent", "ceiling_tokens_per_second")
    )
    fastest = max(percent, 100 * fields["decode_tokens_per_second"] / limit if limit > 0 else 0.0)
    if fastest <= MOST_PERCENT:
        return None
    return f"{fastest:,.0f}% of the measured bandwidth: expected at most {MOST_PERCENT}%"


def _check(fields: dict[str, Any], checks: dict[str, _Check], where: str) -> None:
    for name, (is_right, expected) in checks.items():
        if name not in fields:
            raise ResultsError(f"{where}: no field {name}: expected {expected}")
        if not is_right(fields[name]):
            raise ResultsError(f"{where}: {name} is {_short(fields[name])}: expected {expected}")


def _rate(sample: Any, batch: int, where: str) -> float:
    seconds = sample.get("decode_seconds") if isinstance(sample, dict) else None
    if not (isinstance(seconds, list) and all(map(_is_number, seconds)) and sum(seconds) > 0):
        raise ResultsError(
            f"{where}: a round of samples has decode_seconds {_short(seconds)}: "
            "expected the seconds of each step"
        )
    return batch * len(seconds) / sum(seconds)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
