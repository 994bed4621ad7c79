"""Every field of a result: what pytest-benchmark's JSON has under `extra_info`, in these units.

pytest-benchmark adds its own `stats`. They are over the same rounds, each from call to return
(`end_to_end_seconds` of each sample). Its `options.timer` is `recorded_generations`, because peers
take turns: see `recorded_timer.py`.
"""

from __future__ import annotations

from typing import TypedDict


class Percentiles(TypedDict):
    """All but p50 are None if the steps were not reported."""

    p5: float | None
    p50: float
    p95: float | None
    p99: float | None


class Sample(TypedDict):
    """One generation, in seconds. A token counts when its id is on the host for every row."""

    prefill_seconds: float  # from the call to the first new token
    decode_seconds: list[float]  # of each later token
    end_to_end_seconds: float  # from the call until it has returned and the device is idle
    # New tokens and seconds of each call, if the steps were not reported. The three figures above
    # are then made of these (`lengths.py`), and all steps are equally long. Empty otherwise.
    call_seconds: list[list[float]]
    seed: int  # of its prompts (`plan.random_prompts`) and its draws


class ResultFields(TypedDict):
    """Rates count the tokens of all rows of the batch together."""

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
    seed: int  # of the weights

    # How it was run
    loop: str  # "its own", or which loop of the benchmark's, in words
    measured_by: str  # "steps": a time for each; "lengths": the difference between calls
    greedy_by_top_k: bool  # asked for top_k=1, as it refuses temperature 0
    # Median seconds that messages alone cost: of a step, or with "lengths" of a call. None for what
    # runs in this process.
    pipe_seconds: float | None

    # Whether the tokens were right, and the times possible
    valid: bool  # a result that is not valid is no measurement
    reason: str | None  # why it is not valid
    tokens_checked: int
    near_ties: int  # tokens that are right within the allowed rounding error alone

    # How fast: medians over the rounds. These are None if the time stamps are out of order or too
    # few; `valid` is False then.
    decode_tokens_per_second: float | None  # without the time and the token of prefill
    decode_spread: (
        float | None
    )  # interquartile range of the rounds' decode rates, over their median
    unstable: bool | None  # decode_spread above 0.10
    # Median over the rounds of this decode rate / huggingface's. None if huggingface was not run,
    # or either of the two is invalid.
    ratio_to_huggingface: float | None
    # A row's wait for its next token, over the decode steps of all rounds, in milliseconds
    ms_per_token: Percentiles | None
    prefill_seconds: float | None  # time to first token
    end_to_end_tokens_per_second: float | None
    end_to_end_seconds: float | None
    # Median of the sampling step alone, of all rows. None if the step can't be run alone.
    sampling_seconds: float | None
    # From the file cache to the device, without imports and without conversion to another format
    load_seconds: float
    loaded_from: str  # "checkpoint" (Hugging Face's layout, on disk), or another format
    first_call_seconds: float | None  # end to end, of the first generation after loading
    # On CUDA of this implementation alone. On the CPU the resident set of the whole process, peers
    # included, so the same in all results.
    peak_memory_bytes: int | None

    # Against the limit: see `limits.py`
    bytes_per_step: int  # what a decode step has to read at the mean depth
    bandwidth_rounds: list[float]  # bytes/s, measured just before each round
    bandwidth_limit: float  # the best of the run, for a buffer of the size that a step reads
    bandwidth_method: str  # "sum", "dot": bytes read; "copy": bytes read and written
    ceiling_tokens_per_second: float  # batch x bandwidth_limit / bytes_per_step
    # 100 x decode_tokens_per_second / ceiling_tokens_per_second. A result above 110 is invalid (see
    # `possible_times.py`). None as the figures above.
    bandwidth_percent: float | None

    # Raw
    warmup: (
        Sample | None
    )  # the generation before the rounds, in the same shapes, with any compilation
    samples: list[Sample]  # the rounds in order; those of the same number were run in one turn

    # On what
    device: str  # cpu or cuda
    device_name: str
    threads: int  # of the CPU, for every implementation
    platform: str
    python: str
    torch: str
    transformers: str
    ctranslate2: str | None
    onnxruntime_genai: str | None
    openvino_genai: str | None
    gpt2ref: str
    cuda: str | None
    driver: str | None
    commit: str | None
    dirty: bool | None  # whether what is measured differs from the commit
