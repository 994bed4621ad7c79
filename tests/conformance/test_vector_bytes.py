"""The vectors have the same bytes on every machine, with every torch."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conformance.vectors import elementary
from conformance.vectors.cases import cases
from conformance.vectors.checkpoints import CHECKPOINTS
from conformance.vectors.in_order import InOrder
from conformance.vectors.write import write_archive, write_case, write_checkpoint
from tests.shared.vectors import HASHES, hashes, index, written

ROOT = Path(__file__).parents[2]
PAGE = " ".join((ROOT / "docs/vectors.md").read_text(encoding="utf-8").split())

_AGAIN = """
import sys
from pathlib import Path
from conformance.vectors.cases import cases
from conformance.vectors.checkpoints import CHECKPOINTS
from conformance.vectors.write import write_case, write_checkpoint

folder, *names = sys.argv[1:]
for case in cases():
    if case.id in names:
        checkpoint = Path(folder) / "checkpoints" / case.checkpoint
        if not checkpoint.exists():
            write_checkpoint(checkpoint, CHECKPOINTS[case.checkpoint]())
        write_case(Path(folder), case)
"""


def test_each_torch_writes_the_same_bytes():
    """tox runs this with its oldest and its newest torch."""
    right = HASHES.read_text(encoding="utf-8").splitlines()
    others = [line.split()[1] for line in hashes() if line not in right]
    assert not others, "after a change of these cases: python -m tests.shared.vectors"
    assert len(hashes()) == len(right)


def test_another_kernel_writes_the_same_bytes(tmp_path):
    names = ("faint-ln_2", "mlp", "narrow", "branches", "greedy", "draws-even", "unscaled")
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"}
    subprocess.run(
        [sys.executable, "-c", _AGAIN, str(tmp_path), *names],
        check=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= len(names) + 3
    for file in files:
        assert file.read_bytes() == (written().folder / file.relative_to(tmp_path)).read_bytes()


# What IEEE 754 lays down, or moves and compares numbers: its result is the same on any machine.
LAID_DOWN = """
    add add_ sub sub_ rsub mul mul_ div reciprocal neg abs abs_ pow relu index_add cumsum
    round floor sign clamp clamp_min nan_to_num nan_to_num_ resolve_conj resolve_neg
    amax max min maximum minimum argmax argsort sort topk searchsorted _unique2
    eq ne lt le gt ge equal isnan isinf isfinite isposinf where masked_fill masked_fill_
    to _to_copy copy_ clone detach alias lift_fresh item _local_scalar_dense fill_ zero_
    zeros_like ones_like empty_like full_like new_zeros new_empty
    view _unsafe_view reshape flatten unflatten as_strided expand expand_as slice select unsqueeze
    squeeze transpose permute t mT unfold chunk split split_with_sizes unbind cat stack
    index index_put index_put_ index_select gather scatter flip roll tril triu repeat
    """.split()  # noqa: SIM905
# Random numbers, which are no part of the answers.
CHANCE = ["normal_", "exponential_", "multinomial", "dropout"]
SLOW = ("long", "whole-vocabulary", "wide-heads")  # the others ask nearly all of it


class Recorder(TorchDispatchMode):
    """Keeps the operations on floating-point numbers that are not laid down."""

    def __init__(self):
        super().__init__()
        self.others = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        fused = (kwargs or {}).get("alpha", 1) != 1
        power = name == "pow" and args[1] not in (2, 3)  # these are products
        if (name not in (*LAID_DOWN, *CHANCE) or fused or power) and any(
            isinstance(each, torch.Tensor) and each.is_floating_point()
            for each in tree_leaves((args, kwargs))
        ):
            self.others.add(str(func))
        return func(*args, **kwargs or {})


def test_nothing_is_left_to_the_machine(tmp_path):
    """A processor that rounds otherwise can't be had here, so the operations are looked at."""
    asked: set[str] = set()
    with Recorder() as recorder:
        for case in cases():
            if case.checkpoint in SLOW or asked.issuperset(case.requirements):
                continue
            asked |= set(case.requirements)
            checkpoint = tmp_path / "checkpoints" / case.checkpoint
            if not checkpoint.exists():
                write_checkpoint(checkpoint, CHECKPOINTS[case.checkpoint]())
            write_case(tmp_path, case)
    assert not recorder.others


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "erf"])
def test_functions_are_right(name):
    """erf multiplies by exp(-36) at most, whose argument is rounded by 36 * 2^-53, or 4e-15."""
    ends = [-math.inf, -1e308, -0.0, 1e308, math.inf, math.nan]
    x = torch.tensor([*(n / 1000 for n in range(-20_000, 20_001)), *ends], dtype=torch.float64)
    own, right = getattr(elementary, name)(x), getattr(torch, name)(x)
    assert torch.allclose(own, right, rtol=5e-15, atol=5e-15, equal_nan=True)


def test_a_root_is_the_nearest_number():
    x = 1 + torch.rand(200, dtype=torch.float64)
    for number, root in zip(x.tolist(), elementary.sqrt(x).tolist(), strict=True):
        half = Fraction(math.ulp(root)) / 2
        assert (Fraction(root) - half) ** 2 <= Fraction(number) <= (Fraction(root) + half) ** 2
    x = x.float()
    assert np.array_equal(elementary.sqrt(x).numpy(), np.sqrt(x.numpy()))


def test_products_in_order_are_those_of_the_plainest_loop():
    a, b = torch.randn(2, 3, 5), torch.randn(5, 4)
    right = torch.zeros(2, 3, 4)
    for term in range(5):
        right += a[..., term, None] * b[term]
    with InOrder():
        assert torch.equal(a @ b, right)
        one, two, three, four, five = a.unbind(-1)
        assert torch.equal(a.mean(-1), (one + two + three + four + five) / 5)


def test_an_archive_has_the_same_bytes_whenever_it_is_written(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_archive(written().folder, tmp_path / name)
    content = (tmp_path / "a.tar").read_bytes()
    assert content == (tmp_path / "b.tar").read_bytes()
    said = (tmp_path / "a.tar.sha256").read_text(encoding="utf-8")
    assert said == f"{hashlib.sha256(content).hexdigest()}  a.tar\n"
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
    assert len(names) == len(index()["files"]) + 1
    assert "gpt2-vectors/index.json" in names


def test_a_release_has_the_archive_that_anybody_can_write_again():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for step in workflow["jobs"]["vectors"]["steps"]]
    (command,) = [each for each in steps if "--write-vectors" in each]
    assert command in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    archive = command.split()[-1]
    assert archive in PAGE
    assert f"{archive} {archive}.sha256" in steps[-1]
