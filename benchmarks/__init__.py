"""Measure the generation loop: tokens per second over temperature and top-k, beside its peers and
the limit that the memory bandwidth sets.

    pytest benchmarks/ --benchmark-json out.json
    gpt2-benchmark my_gpt2.py --json out.json --html report.html

- What is run: `options.py` reads the command line into a plan (`plan.py`, `sampling.py`), and
  `implementations/` loads and runs each GPT-2: peers by their names, and any other by its adapter
  for the conformance suite, whose parts `suite.py` finds. `__main__.py` is `gpt2-benchmark`.
- The run: `run.py` goes through the plan. `card.py` and `expectations.py` print what to expect,
  `progress.py` shows how far it is, `weights.py` loads the implementations, `measurement.py` lets
  them take turns, with prompts that `seeds.py` draws, and `timing.py` and `lengths.py` turn clock
  readings into figures. `limits.py` and `memory.py` find what the machine allows, `validity.py`
  checks the tokens and `possible_times.py` the times, and `environment.py` records what the figures
  depend on.
- The results: `test_generation_speed.py` and `recorded_timer.py` hand them to pytest-benchmark, and
  `summary.py`, `notes.py` and `bars.py` print them. A result is one implementation in one cell of
  the plan, and is one test. `result_fields.py` describes its fields. `report.py` turns the JSON
  into Markdown and a page.
- By themselves: `scale.py` runs a replica in each process, `matrix_products.py` times the matrix
  products of a decode step, and `gpu_run.py` does all that needs a GPU, which has `goals.py`.

The time measured is that of the loop from the prompt's token ids on the host to the new token ids
on the host, sampling included. Tokenising is not measured; loading and the first call are separate
figures. The weights are random, with the statistics of trained ones, in the published shapes, so
nothing is downloaded. They never give EOS, so every row generates the same number of tokens.
"""
