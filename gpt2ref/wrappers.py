"""Remove from tensors' names what wrappers around a model, or around a part of it, add."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

# `module.` is DistributedDataParallel's and `_orig_mod.` torch.compile's. FSDP, activation
# checkpoints and Lightning's Fabric add parts that begin with an underscore, too.
_WRAPPER = re.compile(r"(?<![^.])(?:transformer|module|_\w*)\.")
_FRONT = re.compile(r"((?:[^.]+\.)*?)(?:wte|wpe|h\.\d+|ln_f)\.")  # what comes before a GPT-2's name
_HEAD = "lm_head.weight"


def plain_names(keys: Iterable[str]) -> dict[str, str]:
    """Map each name to the one that it has in a bare model.

    The parts `transformer`, `module` and those that begin with an underscore are dropped wherever
    they stand. Anything else is dropped where it stands before most of the names, such as `model.`,
    or before `lm_head.weight`. So `adapter.wte.weight` beside `wte.weight` stays as it is.
    """
    names = {key: _WRAPPER.sub("", key) for key in keys}
    fronts = Counter(match[1] for name in names.values() if (match := _FRONT.match(name)))
    front = max(fronts, key=lambda front: fronts[front], default="")
    return {
        key: _HEAD if name.endswith(f".{_HEAD}") else name.removeprefix(front)
        for key, name in names.items()
    }


def taken_off(names: Mapping[str, str]) -> list[str]:
    """List the parts that `plain_names` dropped, except the usual `transformer.`."""
    dropped = [Counter(key.split(".")) - Counter(name.split(".")) for key, name in names.items()]
    return sorted({f"{part}." for parts in dropped for part in parts} - {"transformer."})


def given_twice(names: Mapping[str, str]) -> list[str]:
    """List the names that become the name of one tensor, those of the same tensor side by side."""
    count = Counter(names.values())
    twice = [key for key, name in names.items() if count[name] > 1]
    return sorted(twice, key=lambda key: (names[key], key))
