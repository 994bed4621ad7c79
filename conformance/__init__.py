"""Judge whether an implementation is a right GPT-2. `pytest conformance/` runs the suite."""
