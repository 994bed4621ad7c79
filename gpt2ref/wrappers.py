"""Remove from tensors' names what wrappers around a model, or around a part of it, add."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

# `module.` is DistributedDataParallel's and `_orig_mod.` torch.compile's. FSDP, activation
# checkpoints and Lightning's Fabric add parts that begin with an underscore, too.
_WRAPPER = re.compile(r"(?<![^.])(?:transformer|module|_\w*)\.")
_FRONT = re.compile(r"((?:[^.]+\.)*?)(?:wte|wpe|h\.\d+|ln_f)\.")  # what comes before a GPT-2's name
_LONGEST = 40  # parts of a name, since a hostile file may have a name of a million
_TOP = ("wte", "wpe", "h", "ln_f", "lm_head")
_OWN = re.compile(r"\d+|h|wte|wpe|ln_[12f]|attn|mlp|c_\w+|lm_head|weight|bias|masked_bias")


def plain_names(keys: Iterable[str]) -> dict[str, str]:
    """Map each name to the one that it has in a bare model.

    The parts `transformer`, `module` and those that begin with an underscore are dropped wherever
    they stand. Anything else is dropped where it stands before most of the names, such as `model.`,
    or before `lm_head`, or where a part of the model has nothing but it, such as `h.0.inner.`. So
    `adapter.wte.weight` and `h.0.adapter.weight` beside a GPT-2's tensors stay as they are.
    """
    names = {key: _WRAPPER.sub("", key) for key in keys}
    fronts = Counter(match[1] for name in names.values() if (match := _FRONT.match(name)))
    front = max(fronts, key=lambda front: fronts[front], default="")
    paths = {key: _from_head(name.removeprefix(front)).split(".") for key, name in names.items()}
    within: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths.values():
        for i, part in enumerate(path[:_LONGEST]):
            within[tuple(path[:i])].add(part)
    return {key: _without_inner(path, within) for key, path in paths.items()}


def _from_head(name: str) -> str:
    return name[name.rfind("lm_head.") :] if ".lm_head." in name else name


def _without_inner(path: list[str], within: Mapping[tuple[str, ...], set[str]]) -> str:
    """Drop the parts of a GPT-2's tensor that are the only ones within their parent."""
    kept = path[:1] if path[0] in _TOP and len(path) <= _LONGEST else path
    for i in range(len(kept), len(path)):
        is_own = i == len(path) - 1 or _OWN.fullmatch(path[i])
        if not is_own and len(within[tuple(path[:i])]) > 1:  # no wrapper, and none of GPT-2's
            return ".".join(kept + path[i:])
        kept += path[i : i + 1] if is_own else []
    return ".".join(kept)


def taken_off(names: Mapping[str, str]) -> list[str]:
    """List the parts that `plain_names` dropped, except the usual `transformer.`."""
    dropped = [Counter(key.split(".")) - Counter(name.split(".")) for key, name in names.items()]
    return sorted({f"{part}." for parts in dropped for part in parts} - {"transformer."})


def given_twice(names: Mapping[str, str]) -> list[str]:
    """List the names that become the name of one tensor, those of the same tensor side by side."""
    count = Counter(names.values())
    twice = [key for key, name in names.items() if count[name] > 1]
    return sorted(twice, key=lambda key: (names[key], key))
