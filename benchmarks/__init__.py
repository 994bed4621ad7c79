"""How fast the generation loop is: tokens per second over temperature x top-k, beside its peers.

    pytest benchmarks/ --benchmark-json out.json

`plan.py` says what is run, `implementations.py` who runs it, `timing.py` how it is timed and turned into figures,
`validity.py` whether the tokens were right, `environment.py` what the figures depend on, and `summary.py` prints
the rows. `test_generation.py` puts them together: one test is one row.

What is measured: the loop from the prompt's token ids on the host to the new token ids on the host, sampling included.
What is not: loading, tokenising, and the first call, whose times are kept apart as `warmup`. Weights are random, with
the statistics of trained ones, in the published shapes: nothing is downloaded. EOS is ignored, so that every row
generates the same number of tokens.
"""
