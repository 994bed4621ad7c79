"""How fast the generation loop is: tokens per second over temperature x top-k, beside its peers and its limit.

    pytest benchmarks/ --benchmark-json out.json

`options.py` reads the command line into a plan (`plan.py`, `sampling.py`), `implementations/` has who is measured. `run.py`
runs the plan: `card.py` says beforehand what to expect, `weights.py` loads the peers, `measurement.py` lets them take turns,
`timing.py` turns clock readings into figures, `limits.py` and `memory.py` say what the machine allows, and `validity.py`
whether the tokens were right. `environment.py` has what the figures depend on, and `summary.py` prints them.
`test_generation.py` and `replay.py` hand them to pytest-benchmark: one test is one row. Every figure of a row is described
in `row.py`. `report.py` turns the JSON into Markdown and a page. By themselves: `scale.py` runs a replica in each rank,
`products.py` times the matrix products of a decode step.

What is measured: the loop from the prompt's token ids on the host to the new token ids on the host, sampling included.
What is not: tokenising, loading and the first call, whose times are kept apart. Weights are random, with the statistics of
trained ones, in the published shapes: nothing is downloaded. EOS is ignored, so that every row generates the same number
of tokens.
"""
