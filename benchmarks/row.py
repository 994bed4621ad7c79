"""Every figure of a row: what pytest-benchmark's JSON has under `extra_info`, and what is read there.

Beside it stands what pytest-benchmark writes itself: its `stats` are over the same rounds, each from call to return (our
`end_to_end_seconds` of each sample), and its `options.timer` is named `recorded_generations` because peers take turns:
see `replay.py`.
"""

from __future__ import annotations

from typing import TypedDict


class Percentiles(TypedDict):
    p5: float
    p50: float
    p95: float
    p99: float


class Sample(TypedDict):
    """One generation, in seconds. A token is there when its id is on the host, for every row of the batch."""

    prefill_seconds: float  # from the call to the first new token
    decode_seconds: list[float]  # of each later token
    end_to_end_seconds: float  # from the call until it has returned and the device is idle


class Row(TypedDict):
    """Seconds are seconds, bytes are bytes, and rates count the tokens of all rows of the batch together."""

    # What was done
    implementation: str
    size: str
    dtype: str
    batch: int  # rows generated at once
    prompt_length: int  # tokens, in each row
    new_tokens: int  # in each row
    temperature: float  # 0 is greedy
    top_k: int | None  # None is no restriction
    rounds: int  # timed generations
    seed: int  # of the weights, the prompt and the draws

    # Whether the tokens were right
    valid: bool  # a row that is not is no measurement
    reason: str | None  # why not
    tokens_checked: int
    near_ties: int  # tokens that are right thanks to the rounding error that is allowed

    # How fast: medians over the rounds
    decode_tokens_per_second: float  # prefill's time and token are not in it
    decode_spread: float  # interquartile range of the rounds' decode rates, over their median
    unstable: bool  # decode_spread above 0.10
    ratio_to_huggingface: (
        float | None
    )  # median over the rounds of this decode rate / huggingface's; None if it wasn't run
    ms_per_token: Percentiles  # wait of a row for its next token, over the decode steps of all rounds, in milliseconds
    prefill_seconds: float  # time to first token
    end_to_end_tokens_per_second: float
    end_to_end_seconds: float
    sampling_seconds: (
        float | None
    )  # median of the sampling step alone, of all rows; None where it can't be had alone
    load_seconds: float  # weights from file cache to device; imports and conversion to another format are not in it
    loaded_from: str  # "checkpoint" (Hugging Face's layout, on disk), or what else it reads
    first_call_seconds: (
        float | None
    )  # end to end, the first generation after loading, in whichever cell it was
    peak_memory_bytes: (
        int | None
    )  # CUDA: this implementation's alone. CPU: the process's resident set, so of all peers
    #                                and everything else in the process, and the same in all rows

    # Against the limit: see `limits.py`
    bytes_per_step: int  # what a decode step has to read at the mean depth
    bandwidth_rounds: list[float]  # bytes/s, measured just before each round
    bandwidth_limit: float  # their median
    bandwidth_method: str  # "sum", "dot": bytes read; "copy": bytes read and written
    ceiling_tokens_per_second: float  # batch x bandwidth_limit / bytes_per_step
    bandwidth_percent: float  # median over the rounds of 100 x decode rate / what the bandwidth before it allows; above 100
    #                           where weights stay in a processor's cache, or are read faster than torch's functions read

    # Raw
    warmup: Sample  # the generation before the rounds, in the same shapes: what is compiled for them is in it
    samples: list[
        Sample
    ]  # the rounds, in order: round i of every implementation of a cell was run in the same turn

    # On what
    device: str  # cpu or cuda
    device_name: str
    threads: int  # of the CPU, for every implementation
    platform: str
    python: str
    torch: str
    transformers: str
    ctranslate2: str | None
    gpt2ref: str
    cuda: str | None
    driver: str | None
    commit: str | None
    dirty: bool | None  # whether what is measured differs from the commit
