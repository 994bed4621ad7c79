"""What the suite asks of a GPT-2: every requirement once, with a stable id, one sentence, and where it comes from.

A test in this folder carries `@requirement("family.name")`; a test without one, or one with an id that is not listed
here, is a collection error. Ids never change their meaning; `since` is the version of gpt2ref that brought them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

OPENAI_MODEL = "openai/gpt-2 src/model.py"
OPENAI_SAMPLE = "openai/gpt-2 src/sample.py"
OPENAI_ENCODER = "openai/gpt-2 src/encoder.py"
HF_MODEL = "transformers modeling_gpt2.py"
HF_LOADING = "transformers modeling_utils.py"
TEXTBOOK = "Learn Generative AI with PyTorch, ch. 11"
DESIGN = "gpt2ref's own decision (README, Decisions)"

_PROFILES = {
    "cache": "cache",
    "eos": "generation",
    "generation": "generation",
    "sampling": "generation",
    "text": "text",
}


@dataclass(frozen=True)
class Requirement:
    id: str
    sentence: str
    source: str
    since: str = "0.1"

    @property
    def family(self) -> str:
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        """The id without the family."""
        return self.id.partition(".")[2]

    @property
    def profile(self) -> str:
        """What an implementation needs for it to apply: logits alone, or a cache, generation, text, its weights."""
        if self.id in ("keys.published-sizes", "keys.round-trip"):
            return "weights"
        return _PROFILES.get(self.family, "logits")


def _family(name: str, *rows: tuple[str, str, str]) -> list[Requirement]:
    return [Requirement(f"{name}.{suffix}", sentence, source) for suffix, sentence, source in rows]


_ALL = [
    *_family(
        "keys",
        ("published-sizes", "Every tensor of the four published sizes has its place and shape, and no other has.", HF_MODEL),
        ("round-trip", "The weights read back out are, bit for bit, the ones that were put in.", HF_MODEL),
        ("prefix", "Names with and without `transformer.` load alike.", HF_LOADING),
        ("mask-buffers", "The mask buffers of older files are no weights and change nothing.", HF_MODEL),
        ("tied-head", "With lm_head.weight equal to wte.weight, or without it, a file loads alike.", OPENAI_MODEL),
        ("differing-head", "An lm_head.weight unlike wte.weight is refused, or overruled, or the head alone.", DESIGN),
        ("half-file", "A file in half precision gives the logits of exactly those numbers.", HF_LOADING),
        ("missing", "A file that lacks a tensor is refused.", DESIGN),
        ("unexpected", "A file with a tensor too many, such as a block more than the config has, is refused.", DESIGN),
        ("wrong-shape", "A tensor of the wrong shape is refused, also where it would broadcast.", HF_LOADING),
    ),
    *_family(
        "transpose",
        ("attn.c_attn", "attn.c_attn.weight multiplies from the right: x @ w.", OPENAI_MODEL),
        ("attn.c_proj", "attn.c_proj.weight, though square, multiplies from the right: x @ w.", OPENAI_MODEL),
        ("mlp.c_fc", "mlp.c_fc.weight multiplies from the right: x @ w.", OPENAI_MODEL),
        ("mlp.c_proj", "mlp.c_proj.weight multiplies from the right: x @ w.", OPENAI_MODEL),
        ("square", "With n_inner = n_embd, where every matrix but c_attn is square, they multiply from the right.", HF_MODEL),
    ),
    *_family(
        "parity",
        ("float64", "In float64, logits equal Hugging Face's to rounding.", HF_MODEL),
        ("float32", "In float32, logits are as near to the float64 truth as Hugging Face's own.", HF_MODEL),
        ("bfloat16", "In bfloat16, logits are as near to the float64 truth as Hugging Face's own.", HF_MODEL),
        ("float16", "In float16, logits are as near to the float64 truth as Hugging Face's own.", HF_MODEL),
        ("full-context", "The 124M shape's logits are right over its whole context of 1024 tokens.", HF_MODEL),
        ("given-checkpoint", "The logits of the checkpoint given with --checkpoint are right.", HF_MODEL),
        ("published-sizes", "The medium, large and XL shapes' logits are right.", HF_MODEL),
    ),
    *_family(
        "activation",
        ("curve", "The MLP's activation is GELU in its tanh form.", OPENAI_MODEL),
    ),
    *_family(
        "layer-norm",
        ("epsilon-ln_1", "ln_1 adds the config's epsilon, 1e-5, to the variance.", OPENAI_MODEL),
        ("epsilon-ln_2", "ln_2 adds the config's epsilon, 1e-5, to the variance.", OPENAI_MODEL),
        ("epsilon-ln_f", "ln_f adds the config's epsilon, 1e-5, to the variance.", OPENAI_MODEL),
        ("epsilon-place", "LayerNorm's epsilon is inside the root.", OPENAI_MODEL),
        ("variance", "LayerNorm divides by n_embd: the variance is the biased one.", OPENAI_MODEL),
        ("mean", "LayerNorm subtracts the mean.", OPENAI_MODEL),
    ),
    *_family(
        "blocks",
        ("norms", "ln_1 comes before attention and ln_2 before the MLP, inside the residual branch.", OPENAI_MODEL),
        ("residual", "What each branch adds to is x itself, not the normalised x.", OPENAI_MODEL),
        ("order", "The MLP reads what attention has already added to.", OPENAI_MODEL),
        ("branches", "What a branch adds is added as it is: 1/sqrt(n_layer) is for the initial weights.", OPENAI_MODEL),
        ("n-inner", "An n_inner in the config is the width of the MLP.", HF_MODEL),
        ("layers", "All blocks run, in the order of their numbers: h.2 before h.10.", OPENAI_MODEL),
    ),
    *_family(
        "final-norm",
        ("count", "ln_f is applied exactly once, before the head.", OPENAI_MODEL),
    ),
    *_family(
        "attention",
        ("scale", "Scores are divided by the root of the head width.", OPENAI_MODEL),
        ("heads", "There are n_head heads, which no tensor's shape tells.", OPENAI_MODEL),
        ("qkv-order", "c_attn gives queries, keys and values, in this order.", OPENAI_MODEL),
        ("qkv-layout", "c_attn's columns are three blocks of n_embd, not a block a head.", OPENAI_MODEL),
        ("head-split", "A head has neighbouring channels, and its own positions.", OPENAI_MODEL),
        ("head-merge", "Heads are put side by side in their order.", OPENAI_MODEL),
        ("mask", "A position sees itself and those before it, masked before the softmax.", OPENAI_MODEL),
        ("softmax", "Weights add up to one over the keys.", OPENAI_MODEL),
        ("large-scores", "Scores of 1400 or of -1400 for all keys give the weights that zeros give.", OPENAI_MODEL),
        (
            "visibility",
            "Each position sees itself and all before it, in every layer and up to the last position: "
            "with equal scores, 1/(i+1) of each.",
            OPENAI_MODEL,
        ),
    ),
    *_family(
        "embedding",
        ("positions", "wpe's rows are added unscaled, row 0 to the first token.", OPENAI_MODEL),
        ("tokens", "wte's rows are taken by the token's id, unscaled.", OPENAI_MODEL),
    ),
    *_family(
        "vectors",
        ("c_attn-bias", "attn.c_attn.bias is used for queries and values (for keys it can't be seen).", OPENAI_MODEL),
        ("attn-c_proj-bias", "attn.c_proj.bias is used.", OPENAI_MODEL),
        ("c_fc-bias", "mlp.c_fc.bias is used.", OPENAI_MODEL),
        ("mlp-c_proj-bias", "mlp.c_proj.bias is used.", OPENAI_MODEL),
        ("ln_1", "ln_1's weight and bias are used, channel by channel.", OPENAI_MODEL),
        ("ln_2", "ln_2's weight and bias are used, channel by channel.", OPENAI_MODEL),
        ("ln_f", "ln_f's weight and bias are used, channel by channel.", OPENAI_MODEL),
    ),
    *_family(
        "head",
        ("raw", "Logits are ln_f's output times wte, without a shift (a constant per position is a variant).", OPENAI_MODEL),
    ),
    *_family(
        "config",
        ("attention-scaling", "A config that scales attention otherwise is followed or refused, not read past.", HF_MODEL),
    ),
    *_family(
        "context",
        ("too-long", "More tokens than there are positions are refused.", HF_MODEL),
    ),
    *_family(
        "cache",
        ("splits", "Fed in any pieces, a sequence has the logits that it has in one.", OPENAI_MODEL),
        ("steps", "The 124M shape's logits are the same fed one token at a time.", OPENAI_MODEL),
        ("bfloat16", "In bfloat16 too, a sequence fed in pieces has its logits.", OPENAI_MODEL),
        ("branches", "Two continuations of one prefix do not see each other.", OPENAI_MODEL),
        ("second-prompt", "A second prompt, also in a batch of another size, sees nothing of the first.", OPENAI_MODEL),
    ),
    *_family(
        "eos",
        ("first-step", "EOS as the first new token gives no tokens.", TEXTBOOK),
        ("middle", "EOS ends a sequence, and is not part of the result.", TEXTBOOK),
        ("last-step", "EOS at the last step is not part of the result either.", TEXTBOOK),
        ("never", "Without EOS, exactly max_new_tokens tokens come, also 0 and 1.", TEXTBOOK),
        ("per-row", "Each row of a batch stops by itself, and the others go on.", DESIGN),
        ("in-prompt", "EOS inside the prompt ends nothing.", DESIGN),
        ("probability", "A sampled EOS ends a row as often as its probability says: lengths are geometric.", TEXTBOOK),
    ),
    *_family(
        "generation",
        ("greedy", "Temperature 0 gives the tokens of the loop that feeds the whole sequence each step.", TEXTBOOK),
        ("window", "Past n_positions, the last n_positions tokens are in view, counted from position 0.", TEXTBOOK),
        (
            "induction",
            "What followed a pair of words before follows it again: attention, mask, positions and cache in every new token.",
            OPENAI_MODEL,
        ),
        ("exact-fit", "A prompt and its new tokens may fill the context to its last position.", TEXTBOOK),
        ("empty-prompt", "A prompt without tokens starts from <|endoftext|>, or is refused.", DESIGN),
        ("leaves-no-trace", "Generating changes nothing: the logits are the same before and after.", DESIGN),
        ("ragged", "A prompt in a batch with longer ones gets the tokens that it gets alone.", DESIGN),
        ("ragged-eos", "EOS in such a prompt is a token like others, not what fills it up.", DESIGN),
    ),
    *_family(
        "sampling",
        ("temperature-zero", "Temperature 0 takes the largest logit, whatever the seed and top_k.", DESIGN),
        ("top-k-one", "top_k=1 takes the largest logit at any temperature.", OPENAI_SAMPLE),
        ("top-k", "No token below the k-th largest logit comes; every other one does.", OPENAI_SAMPLE),
        ("top-k-ties", "Every token tied with the k-th largest logit stays.", OPENAI_SAMPLE),
        ("top-k-above-vocabulary", "A top_k of the vocabulary's size, or above, is no restriction.", DESIGN),
        ("top-k-none", "top_k=None is no restriction.", DESIGN),
        ("top-k-zero", "top_k=0 is refused by name, or no restriction.", DESIGN),
        ("nan", "A NaN among the logits is an error, not a token.", DESIGN),
        ("distribution", "Tokens come as often as softmax(logits / temperature) over the top_k says.", OPENAI_SAMPLE),
        ("independent-draws", "Rows and steps draw independently of each other.", OPENAI_SAMPLE),
        ("seed", "The same seed gives the same tokens, another seed others, and nothing else has a say.", DESIGN),
    ),
    *_family(
        "text",
        ("encode", "Text becomes the ids that OpenAI's merges give.", OPENAI_ENCODER),
        ("decode", "Ids become the text again, characters of several tokens too.", OPENAI_ENCODER),
        ("special", "<|endoftext|> typed in a text stays text.", DESIGN),
        ("unknown-id", "An id that is no token's is not decoded as another token's text.", DESIGN),
    ),
    *_family(
        "laws",
        ("repeatable", "The same tokens have the same logits again, also where the config has dropout.", OPENAI_MODEL),
        ("rows-independent", "A row's logits do not depend on the other rows of its batch.", OPENAI_MODEL),
        ("prefix", "The logits of a prefix are the prefix of the logits: no token sees a later one.", OPENAI_MODEL),
        ("vocabulary-permutation", "Renumbering the vocabulary renumbers the logits.", OPENAI_MODEL),
    ),
]  # fmt: skip

REQUIREMENTS = {requirement.id: requirement for requirement in _ALL}


def requirement(requirement_id: str) -> pytest.MarkDecorator:
    """Marks a test as one of those that decide the requirement."""
    if requirement_id not in REQUIREMENTS:
        raise ValueError(f"requirement {requirement_id!r}: not in requirements.py")
    return pytest.mark.requirement(requirement_id)
