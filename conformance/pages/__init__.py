"""Show the suite's results: HTML pages (`python -m conformance.pages`) and a badge."""
