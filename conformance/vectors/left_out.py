"""Lists what the files can't ask, with the reason."""

LEFT_OUT = {
    "keys.published-sizes": "Files of the published sizes have up to 6 GB.",
    "keys.round-trip": "The weights that an implementation has loaded are not among its answers.",
    "parity.float64": "A port computes in float32 or below.",
    "parity.bfloat16": "Answers that say so are held to the error of bfloat16 (`precision`).",
    "parity.float16": "Answers that say so are held to the error of float16 (`precision`).",
    "parity.given-checkpoint": "Real weights are not among the files.",
    "parity.published-sizes": "The shapes above 124M take gigabytes.",
    "cache.steps": "It asks for the width of 124M, which is in the full set alone.",
    "cache.bfloat16": "It compares an implementation with itself, in a dtype that it is loaded in.",
    "eos.probability": "The lengths of thousands of texts would be a file of their own.",
    "generation.induction": "Its checkpoint is wide: `generation.greedy` has what the files can.",
    "sampling.independent-draws": "It compares draws of an implementation with its other draws.",
    "sampling.seed": "What a seed does is an implementation's own: it compares two runs.",
}
