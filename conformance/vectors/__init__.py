"""The suite as files, that a test in any language reads without Python (docs/vectors.md)."""
