"""Mistakes that have a number: their names, the catalogue's examples, and words.

A window, a cap or a penalty may have any number, and the catalogue has an example of each. What
reads the number names the mistake with it: `view=300`. The class of an example has the number as an
attribute of that name. `conformance.defects:view=300` judges one.
"""

from __future__ import annotations

from typing import NamedTuple


class Numbered(NamedTuple):
    """`example`: the id of the catalogue's example. `what`: a sentence with {} for the number."""

    example: str
    what: str


NUMBERED = {
    "window": Numbered("window-of-eight", "Only the last {} positions are seen."),
    "min-new-tokens": Numbered(
        "min-new-tokens-of-20",
        "EOS can't be chosen where a text would have fewer than {} new tokens.",
    ),
    "min-length": Numbered(
        "min-length-of-20",
        "EOS can't be chosen where a text and its prompt would have fewer than {} tokens.",
    ),
    "max-new-tokens": Numbered(
        "new-tokens-capped", "There are never more than {} new tokens, whatever is asked for."
    ),
    "end-id": Numbered("stops-at-blank-line", "Id {} ends a text."),
    "view": Numbered("view-of-256", "The loop feeds the last {} tokens at most."),
    "cache-size": Numbered(
        "cache-of-512", "The cache has room for {} positions, and forgets the oldest."
    ),
    "lost-slot": Numbered(
        "slot-700-lost", "A step loses the key and value of position {}, as they are overwritten."
    ),
    "top-k": Numbered(
        "top-k-of-50-unasked", "Without a top_k, the draw is from the {} largest logits."
    ),
    "top-p": Numbered(
        "top-p-unasked",
        "A nucleus of about {} is left on: the likeliest tokens with that probability together.",
    ),
    "min-p": Numbered(
        "min-p-unasked", "Tokens with less than about {} of the largest probability are left out."
    ),
    "epsilon-cutoff": Numbered(
        "epsilon-cutoff-unasked", "Tokens with a probability below about {} are left out."
    ),
    "repetition-penalty": Numbered(
        "repetition-penalty-unasked",
        "The logit of a token that was said is divided by about {}, or multiplied if negative.",
    ),
    "presence-penalty": Numbered(
        "presence-penalty-unasked", "The logit of a token that was said sinks by about {}, once."
    ),
    "frequency-penalty": Numbered(
        "frequency-penalty-unasked", "A token's logit sinks by about {} each time that it is said."
    ),
    "no-repeat-ngram-size": Numbered(
        "n-grams-blocked", "A token that would repeat {} tokens is never chosen."
    ),
}
