"""`python -m conformance.studies.tolerance`: the figures behind the allowed error (see `oracle`).

For random small checkpoints and each dtype: gpt2ref's largest error over Hugging Face's own, and how far the two
smallest known defects, erf-GELU and an epsilon of 1e-6, are beyond the allowed error.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from ..adapters.gpt2ref import load
from ..checkpoints.tensors import SMALL, random_token_ids, trained_like, write_checkpoint
from ..judging.oracle import FACTOR, expected, hugging_face_logits

DEFECTS: dict[str, dict[str, object]] = {
    "gelu-erf": {"activation_function": "gelu"},
    "epsilon-1e-6": {"layer_norm_epsilon": 1e-6},
}


def defective_copy(checkpoint: Path, fields: dict[str, object]) -> Path:
    """The same weights under a config.json that asks Hugging Face for another architecture."""
    folder = Path(tempfile.mkdtemp(dir=checkpoint.parent))
    (folder / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")
    return folder


def measure(seed: int, dtype: torch.dtype) -> dict[str, float]:
    """gpt2ref's error, and each defect's, as multiples of the allowed error."""
    with tempfile.TemporaryDirectory() as root:
        checkpoint = write_checkpoint(Path(root) / "right", SMALL, trained_like(SMALL, seed))
        token_ids = random_token_ids(SMALL, batch=4, time=SMALL.n_positions, seed=seed)
        truth, allowed = expected(str(checkpoint), token_ids, dtype)
        ours = load(str(checkpoint), dtype=dtype).logits(token_ids).double()
        found = {"gpt2ref": float((ours - truth).abs().max()) / allowed}
        for name, fields in DEFECTS.items():
            logits = hugging_face_logits(
                str(defective_copy(checkpoint, fields)), token_ids, dtype, "eager"
            )
            found[name] = float((logits - truth).abs().max()) / allowed
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds = range(parser.parse_args().seeds)
    print(
        f"multiples of the allowed error ({FACTOR} times Hugging Face's own), over {len(seeds)} checkpoints"
    )
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        found = [measure(seed, dtype) for seed in seeds]
        largest = max(figures["gpt2ref"] for figures in found)
        smallest = {name: min(figures[name] for figures in found) for name in DEFECTS}
        defects = ", ".join(f"{name} at least {value:.3g}" for name, value in smallest.items())
        print(f"{dtype!s:15} gpt2ref at most {largest:.2f}; {defects}", flush=True)


if __name__ == "__main__":
    main()
