"""What a correct GPT-2 is, and the checks that tell whether one is. `pytest conformance/` runs them."""
