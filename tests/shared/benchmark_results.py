"""Made-up results of the benchmarks, and files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert(1)</script>|'\"&`*\\ \n# \x00\x1b[31m \ud800"
ENVIRONMENT = {
    "device": "cpu",
    "device_name": "A Processor",
    "threads": 2,
    "platform": "Linux",
    "python": "3.11.7",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "gpt2ref": "0.1.0",
    "cuda": None,
    "driver": None,
    "commit": "a" * 40,
    "dirty": False,
}


def a_result(
    implementation: str = "gpt2ref", rates: tuple[float, ...] = (90.0, 100.0, 110.0), **fields: Any
) -> dict[str, Any]:
    """Return the fields of a result. Each round decodes three tokens."""
    batch = fields.get("batch", 1)
    samples = [
        {"prefill_seconds": 0.5, "decode_seconds": [batch / each] * 3, "end_to_end_seconds": 1.0}
        for each in rates
    ]
    middle = sorted(rates)[len(rates) // 2]
    made = {
        "implementation": implementation,
        "size": "gpt2",
        "dtype": "float32",
        "batch": 1,
        "prompt_length": 32,
        "new_tokens": 4,
        "temperature": 0.0,
        "top_k": None,
        "rounds": len(rates),
        "valid": True,
        "reason": None,
        "decode_tokens_per_second": middle,
        "decode_spread": 0.2,
        "prefill_seconds": 0.5,
        "ms_per_token": {"p5": 9.0, "p50": 10.0, "p95": 11.0, "p99": 12.0},
        "warmup": samples[0],
        "samples": samples,
    }
    return made | ENVIRONMENT | fields


def an_invalid_result(implementation: str = "broken", **fields: Any) -> dict[str, Any]:
    return a_result(
        implementation,
        (900.0, 990.0, 999.0),
        valid=False,
        reason="row 0, new token 3 is not the likeliest",
        **fields,
    )


def written(folder: Path, *results: dict[str, Any], name: str = "out.json", **others: Any) -> Path:
    """Write results to a file as pytest-benchmark does."""
    path = folder / name
    data = {
        "version": "5.3.1",
        "benchmarks": [{"name": "test", "extra_info": each} for each in results],
    } | others
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


RESULTS = [
    a_result(
        temperature=0.0,
        rates=(198.0, 200.0, 202.0),
        ratio_to_huggingface=2.0,
        bandwidth_percent=80.0,
    ),
    a_result("huggingface", (99.0, 100.0, 101.0), temperature=0.0),
    a_result(temperature=1.0, rates=(148.0, 150.0, 152.0)),
    a_result(temperature=1.0, top_k=40, rates=(178.0, 180.0, 182.0), unstable=True),
    an_invalid_result(),
    a_result(batch=4, rates=(390.0, 400.0, 410.0), ceiling_tokens_per_second=1000.0),
    a_result("huggingface", (190.0, 200.0, 210.0), batch=4, ceiling_tokens_per_second=1000.0),
    a_result(prompt_length=512, rates=(118.0, 120.0, 122.0)),
]
