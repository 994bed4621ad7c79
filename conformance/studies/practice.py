"""Measure how many defects of the catalogue the usual tests of a GPT-2 catch:

    python -m conformance.studies.practice [--json FILE]

Each check is one that people write for their own GPT-2, on a checkpoint that needs no download:

a, b   One `torch.allclose` with Hugging Face's logits, at 1e-4 or 1e-3: the usual test of a port.
       Two rows of 16 random tokens, float32, a freshly initialised tiny model.
c      The text of twenty greedy tokens after "The dog", the prompt of transformers' own test,
       compared with `generate(do_sample=False)`. Fresh weights repeat one token, or two.
d      transformers' tests/models/gpt2/test_modeling_gpt2.py as it was until 2025, with the mixins
       that it inherits. All of them compare an implementation with itself. Left out are
       `create_and_check_gpt2_model_attention_mask_past`, whose mask hides the end of a prompt,
       since `protocol.Implementation` takes no mask; gradients; initialisation; and other heads
       than the language model's. `test_batch_generation` is on real weights there, and on the tiny
       ones here. The other tests on real weights compare texts, as c does.

Nothing here has real weights. a2, b2 and c2 are a, b and c on `trained_like` weights, which are
nearer to what these checks do with a downloaded model. How near was not measured.

A defect is caught if a check fails, or raises an exception where a right GPT-2 raises none. An
entry that changes nothing (EQUIVALENT) must pass. A right GPT-2 must pass every check, or nothing
counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from gpt2ref import GPT2Config, decode, encode

from ..adapters.huggingface import HuggingFace
from ..checkpoints.tensors import random_token_ids, trained_like, write_checkpoint
from ..defects import DEFECTS, EQUIVALENT, CompleteGPT2

# The shape of transformers' own tests (later versions have two layers), but with the real
# vocabulary, so that texts can be encoded.
SHAPE = GPT2Config(n_positions=512, n_embd=32, n_layer=5, n_head=4, n_inner=37)
PROMPT = "The dog"
# "Hello, my dog is a little" and "Today, I"
SENTENCES = [[15496, 11, 616, 3290, 318, 257, 1310], [8888, 11, 314]]
Load = Callable[[str], CompleteGPT2]
Results = dict[str, dict[str, str | None]]  # defect -> check -> what was found


class Ground(NamedTuple):
    """A checkpoint with what Hugging Face's GPT-2 computes from it."""

    folder: str
    token_ids: Tensor
    logits: Tensor
    text: str


def ground(folder: Path, *, trained: bool, seed: int = 0) -> Ground:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config.from_dict(SHAPE.to_dict())
        ).eval()
        token_ids = torch.randint(SHAPE.vocab_size, (2, 16))
    if trained:
        # The catalogue draws a wrong head from smaller seeds. With the same seed, that head would
        # be the embedding times a number.
        model.transformer.load_state_dict(trained_like(SHAPE, seed + 1000))
    model.save_pretrained(folder)
    theirs = HuggingFace(model)
    new = theirs.generate(torch.tensor([encode(PROMPT)]), max_new_tokens=20, temperature=0.0)[0]
    return Ground(str(folder), token_ids, theirs.logits(token_ids), decode(new))


# a, b, c compare with Hugging Face.


def allclose_4(load: Load, on: Ground) -> bool:
    return torch.allclose(load(on.folder).logits(on.token_ids), on.logits, atol=1e-4)


def allclose_3(load: Load, on: Ground) -> bool:
    return torch.allclose(load(on.folder).logits(on.token_ids), on.logits, atol=1e-3)


def greedy_text(load: Load, on: Ground) -> bool:
    model = load(on.folder)
    prompts = torch.tensor([model.encode(PROMPT)])
    (new,) = model.generate(prompts, max_new_tokens=20, temperature=0.0)
    return model.decode(new) == on.text


# d compares an implementation with itself, on fourteen rows of seven tokens, as there.


def lm_head_model(load: Load, on: Ground) -> bool:
    """create_and_check_gpt2_model, create_and_check_lm_head_model: shapes of logits and loss"""
    token_ids = random_token_ids(SHAPE, 14, 7)
    logits = load(on.folder).logits(token_ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten())
    return logits.shape == (14, 7, SHAPE.vocab_size) and loss.shape == () and bool(loss.isfinite())


def model_past(load: Load, on: Ground, new: int = 1) -> bool:
    """create_and_check_gpt2_model_past

    The original compares hidden states after the last norm, within 1e-3. A logit is the sum of
    n_embd of them, each times a weight of standard deviation 0.02: an error of 1e-3 in each is an
    error of about 0.02 sqrt(32) 1e-3 = 1.1e-4 in the logit.
    """
    model, token_ids = load(on.folder), random_token_ids(SHAPE, 14, 7 + new)
    _, past = model.prefill(token_ids[:, :7])
    whole, _ = model.prefill(token_ids)
    stepped, _ = model.step(token_ids[:, 7:], past)
    return stepped.shape[1] == new and torch.allclose(stepped, whole[:, -new:], atol=1e-4)


def model_past_large_inputs(load: Load, on: Ground) -> bool:
    """create_and_check_gpt2_model_past_large_inputs: the same for three tokens at once"""
    return model_past(load, on, new=3)


def batch_generation(load: Load, on: Ground) -> bool:
    """test_batch_generation: two prompts of different lengths in one batch, and each alone"""
    options: dict[str, Any] = {"max_new_tokens": 13, "temperature": 0.0}
    model = load(on.folder)
    together = model.generate_ragged(SENTENCES, **options)
    return together == [
        model.generate(torch.tensor([sentence]), **options)[0] for sentence in SENTENCES
    ]


def save_load(load: Load, on: Ground) -> bool:
    """ModelTesterMixin.test_save_load: saved and loaded again, the logits are the same"""
    model = load(on.folder)
    with tempfile.TemporaryDirectory() as folder:
        again = load(str(write_checkpoint(Path(folder), SHAPE, model.state_dict())))
        return bool((again.logits(on.token_ids) - model.logits(on.token_ids)).abs().max() <= 1e-5)


def determinism(load: Load, on: Ground) -> bool:
    """ModelTesterMixin.test_determinism: asked twice, the logits are the same"""
    model = load(on.folder)
    return bool((model.logits(on.token_ids) - model.logits(on.token_ids)).abs().max() <= 1e-5)


def batching_equivalence(load: Load, on: Ground) -> bool:
    """ModelTesterMixin.test_batching_equivalence: a row alone has its logits of the batch"""
    model = load(on.folder)
    return torch.allclose(
        model.logits(on.token_ids)[:1], model.logits(on.token_ids[:1]), atol=1e-5, rtol=1e-5
    )


def generated_length(load: Load, on: Ground) -> bool:
    """GenerationTesterMixin.test_greedy_generate, test_sample_generate: there are three tokens"""
    model, prompts = load(on.folder), random_token_ids(SHAPE, 2, 3)
    greedy = model.generate(prompts, max_new_tokens=3, temperature=0.0)
    sampled = model.generate(prompts, max_new_tokens=3, temperature=0.7, top_k=10)
    return [len(row) for row in greedy + sampled] == [3] * 4


class Check(NamedTuple):
    what: str
    trained: bool
    tests: Sequence[Callable[[Load, Ground], bool]]


OWN: list[Callable[[Load, Ground], bool]] = [
    lm_head_model,
    model_past,
    model_past_large_inputs,
    batch_generation,
]
OWN += [save_load, determinism, batching_equivalence, generated_length]
CHECKS = {
    "a": Check("allclose, 1e-4", False, [allclose_4]),
    "b": Check("allclose, 1e-3", False, [allclose_3]),
    "c": Check("greedy text", False, [greedy_text]),
    "d": Check("transformers' own tests", False, OWN),
    "a2": Check("a on trained-like weights", True, [allclose_4]),
    "b2": Check("b on trained-like weights", True, [allclose_3]),
    "c2": Check("c on trained-like weights", True, [greedy_text]),
}
ROWS = {name: (check.what, [name]) for name, check in CHECKS.items()}
ROWS |= {"a-d": ("a, b, c and d", ["a", "b", "c", "d"]), "all": ("all of them", list(CHECKS))}


def found(check: Check, load: Load, on: Ground) -> str | None:
    """Return the test that fails, with its exception if it raised one. None if all pass."""
    for test in check.tests:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                if not test(load, on):
                    return test.__name__
            except Exception as error:
                return f"{test.__name__}: {type(error).__name__}: {error}"
    return None


def measure(names: Iterable[str], seed: int = 0) -> Results:
    with tempfile.TemporaryDirectory() as folder:
        grounds = {
            trained: ground(Path(folder) / str(trained), trained=trained, seed=seed)
            for trained in (False, True)
        }
        for name, check in CHECKS.items():
            if reason := found(check, CompleteGPT2.load, grounds[check.trained]):
                raise RuntimeError(f"check {name}: a right GPT-2 fails {reason}")
        entries = DEFECTS | EQUIVALENT
        return {
            defect: {
                name: found(check, entries[defect].kind.load, grounds[check.trained])
                for name, check in CHECKS.items()
            }
            for defect in names
        }


def table(results: Results) -> str:
    """Return a line for each check, and then the defects that it misses."""
    wrong, harmless = (
        [name for name in results if name in entries] for entries in (DEFECTS, EQUIVALENT)
    )
    families: dict[str, list[str]] = {}
    for name in wrong:
        families.setdefault(DEFECTS[name].family, []).append(name)
    heading = [f"{'':30}{'caught':>15}", *(f"{family:>12}" for family in families), "false alarms"]
    lines, misses = ["    ".join(heading)], []
    for row, (what, checks) in ROWS.items():
        caught = {name for name in results if any(results[name][check] for check in checks)}
        groups = [wrong, *families.values(), harmless]
        total, *cells = [f"{len(caught.intersection(group))} of {len(group)}" for group in groups]
        share = len(caught.intersection(wrong)) / max(1, len(wrong))
        first = f"{row:3} {what:26}{total:>10} {share:4.0%}"
        lines.append("    ".join([first, *(f"{cell:>12}" for cell in cells)]))
        misses.append(f"{row} misses: " + ", ".join(name for name in wrong if name not in caught))
        if flagged := [name for name in harmless if name in caught]:
            misses.append(f"{row} wrongly flags: " + ", ".join(flagged))
    paragraphs = [textwrap.fill(line, 100, break_on_hyphens=False) for line in misses]
    return "\n\n".join(["\n".join(lines), *paragraphs])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights and token ids (default: 0)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write what each check found in each defect"
    )
    options = parser.parse_args()

    started = time.monotonic()
    results = measure([*DEFECTS, *EQUIVALENT], options.seed)
    print(f"{table(results)}\n\n{time.monotonic() - started:.0f} s")
    if options.json:
        checks = {name: check.what for name, check in CHECKS.items()}
        whole = {
            "seed": options.seed,
            "checks": checks,
            "equivalent": list(EQUIVALENT),
            "found": results,
        }
        options.json.write_text(json.dumps(whole, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
