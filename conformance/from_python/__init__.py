"""The suite as functions: in a notebook, and in the tests of another project."""
