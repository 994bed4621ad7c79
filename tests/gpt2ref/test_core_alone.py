"""The core (config, model, conversion, sampling, generation) works without the other modules."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import gpt2ref
from conformance.checkpoints.tensors import trained_like
from gpt2ref import GPT2Config, from_tensors, sample

PROMPTS = [[1, 2, 3], [5], list(range(20, 40))]  # the last one is longer than the context
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 15,
    "temperature": 0.9,
    "top_k": 20,
    "seed": 4,
    "eos_token_id": 7,
}
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "n_positions": 13,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
}

CODE = f"""
import json, sys
import gpt2ref.model, gpt2ref.sampling, gpt2ref.generation
from gpt2ref.config import GPT2Config
from gpt2ref.conversion import from_hugging_face_tensors
from safetensors.torch import load_file

config = GPT2Config(**{SHAPE})
model = gpt2ref.model.GPT2(config)
model.load_state_dict(from_hugging_face_tensors(load_file(sys.argv[1]), config))
print(json.dumps([gpt2ref.__file__, gpt2ref.generation.sample(model, {PROMPTS}, **{OPTIONS})]))
"""


def test_without_fast_and_checkpoint_it_generates_the_same_tokens(tmp_path):
    copied = tmp_path / "gpt2ref"
    ignored = shutil.ignore_patterns("fast", "checkpoint", "__pycache__")
    shutil.copytree(Path(gpt2ref.__file__).parent, copied, ignore=ignored)
    config = GPT2Config(**SHAPE)
    tensors = trained_like(config, seed=2)
    save_file(tensors, tmp_path / "model.safetensors")
    # Python finds the copy in the current folder, before the installed package.
    command = [sys.executable, "-c", CODE, str(tmp_path / "model.safetensors")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    file, found = json.loads(result.stdout)
    assert Path(file) == copied / "__init__.py"
    assert found == sample(from_tensors(tensors, config), PROMPTS, **OPTIONS)


CORE = ("config", "model", "conversion", "sampling", "generation")
BESIDE = ("arguments", "devices", "wrappers")  # what a reader may skip


@pytest.mark.parametrize(("names", "most"), [(CORE, 750), (BESIDE, 200)])
def test_the_core_has_at_most_750_lines_and_what_it_calls_200(names, most):
    """Docstrings count. A person can read that much in one sitting."""
    folder = Path(gpt2ref.__file__).parent
    lines = {name: len((folder / f"{name}.py").read_text("utf-8").splitlines()) for name in names}
    assert sum(lines.values()) <= most, lines
