"""The requirements: what the suite asks of a GPT-2.

Each has a stable id, one sentence that is true of GPT-2, and a source. A test in this folder is
marked with `@requirement("family.name")`. A test without a mark, or with an id that is not listed
here, is a collection error. Ids never change their meaning. `since` is the version of gpt2ref that
added a requirement.
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
        """Return what an implementation must offer: logits, cache, generation, text or weights."""
        if self.id in ("keys.published-sizes", "keys.round-trip"):
            return "weights"
        return _PROFILES.get(self.family, "logits")


def _family(name: str, *rows: tuple[str, str, str]) -> list[Requirement]:
    return [Requirement(f"{name}.{suffix}", sentence, source) for suffix, source, sentence in rows]


_ALL = [
    *_family(
        "keys",
        ("published-sizes", HF_MODEL,
         "The four published sizes have all of GPT-2's tensors, in their shapes, and no others."),
        ("round-trip", HF_MODEL, "The loaded weights are, bit for bit, those of the file."),
        ("prefix", HF_LOADING, "Names with and without `transformer.` load alike."),
        ("mask-buffers", HF_MODEL,
         "The mask buffers in older files are not weights and change nothing."),
        ("tied-head", OPENAI_MODEL,
         "A file loads alike with an lm_head.weight equal to wte.weight and without one."),
        ("differing-head", DESIGN,
         "An lm_head.weight unlike wte.weight is refused, ignored, or used for the head alone."),
        ("half-file", HF_LOADING,
         "A file in half precision gives the logits of exactly those numbers."),
        ("missing", DESIGN, "A file that lacks a tensor is refused."),
        ("unexpected", DESIGN,
         "A file with an extra tensor, such as one of a further block, is refused."),
        ("wrong-shape", HF_LOADING,
         "A tensor of the wrong shape is refused, even if it would broadcast."),
    ),
    *_family(
        "transpose",
        ("attn.c_attn", OPENAI_MODEL, "attn.c_attn.weight multiplies from the right: x @ w."),
        ("attn.c_proj", OPENAI_MODEL,
         "attn.c_proj.weight, though square, multiplies from the right: x @ w."),
        ("mlp.c_fc", OPENAI_MODEL, "mlp.c_fc.weight multiplies from the right: x @ w."),
        ("mlp.c_proj", OPENAI_MODEL, "mlp.c_proj.weight multiplies from the right: x @ w."),
        ("square", HF_MODEL,
         "With n_inner = n_embd, the square matrices multiply from the right: x @ w."),
    ),
    *_family(
        "parity",
        ("float64", HF_MODEL, "In float64, logits equal Hugging Face's to rounding."),
        ("float32", HF_MODEL,
         "In float32, logits are as near to the float64 truth as Hugging Face's own."),
        ("bfloat16", HF_MODEL,
         "In bfloat16, logits are as near to the float64 truth as Hugging Face's own."),
        ("float16", HF_MODEL,
         "In float16, logits are as near to the float64 truth as Hugging Face's own."),
        ("full-context", HF_MODEL,
         "Logits are right over a whole context of 1024 tokens, at the width of the 124M shape."),
        ("given-checkpoint", HF_MODEL,
         "The logits of the checkpoint given with --checkpoint are right."),
        ("published-sizes", HF_MODEL, "The logits of the medium, large and XL shapes are right."),
    ),
    *_family(
        "activation",
        ("curve", OPENAI_MODEL, "The MLP's activation is GELU in its tanh form."),
    ),
    *_family(
        "layer-norm",
        ("epsilon-ln_1", OPENAI_MODEL, "ln_1 adds the config's epsilon, 1e-5, to the variance."),
        ("epsilon-ln_2", OPENAI_MODEL, "ln_2 adds the config's epsilon, 1e-5, to the variance."),
        ("epsilon-ln_f", OPENAI_MODEL, "ln_f adds the config's epsilon, 1e-5, to the variance."),
        ("epsilon-place", OPENAI_MODEL, "LayerNorm adds epsilon inside the square root."),
        ("variance", OPENAI_MODEL, "LayerNorm divides by n_embd: the variance is the biased one."),
        ("mean", OPENAI_MODEL, "LayerNorm subtracts the mean."),
    ),
    *_family(
        "blocks",
        ("norms", OPENAI_MODEL,
         "ln_1 comes before attention and ln_2 before the MLP, inside the residual branch."),
        ("residual", OPENAI_MODEL, "Each branch is added to x itself, not to the normalised x."),
        ("order", OPENAI_MODEL, "The MLP reads the sum of x and attention's output."),
        ("branches", OPENAI_MODEL,
         "A branch is added unscaled: 1/sqrt(n_layer) is for the initial weights."),
        ("n-inner", HF_MODEL, "An n_inner in the config is the width of the MLP."),
        ("layers", OPENAI_MODEL, "All blocks run, in the order of their numbers: h.2 before h.10."),
        ("own-weights", OPENAI_MODEL, "Each block has weights of its own, and none of another's."),
    ),
    *_family(
        "final-norm",
        ("count", OPENAI_MODEL, "ln_f is applied exactly once, before the head."),
    ),
    *_family(
        "attention",
        ("scale", OPENAI_MODEL, "Scores are divided by the square root of the head width."),
        ("heads", OPENAI_MODEL, "There are n_head heads, a number that no tensor's shape shows."),
        ("qkv-order", OPENAI_MODEL, "c_attn gives queries, keys and values, in this order."),
        ("qkv-layout", OPENAI_MODEL,
         "c_attn's columns are three blocks of n_embd, not one block for each head."),
        ("head-split", OPENAI_MODEL, "Each head has adjacent channels of every position."),
        ("head-merge", OPENAI_MODEL, "The outputs of the heads are concatenated in their order."),
        ("mask", OPENAI_MODEL,
         "A position attends to itself and those before it, masked before the softmax."),
        ("softmax", OPENAI_MODEL, "The attention weights of a query sum to one over the keys."),
        ("large-scores", OPENAI_MODEL,
         "Scores of 1400 or -1400 for all keys give the weights that zeros give."),
        ("visibility", OPENAI_MODEL,
         "With equal scores, position i attends with 1/(i+1) to all up to itself, in every layer."),
    ),
    *_family(
        "embedding",
        ("positions", OPENAI_MODEL,
         "The rows of wpe are added unscaled, row 0 to the first token."),
        ("tokens", OPENAI_MODEL, "The rows of wte are looked up by token id, unscaled."),
    ),
    *_family(
        "vectors",
        ("c_attn-bias", OPENAI_MODEL,
         "attn.c_attn.bias is used for queries and values; for keys it has no effect."),
        ("attn-c_proj-bias", OPENAI_MODEL, "attn.c_proj.bias is used."),
        ("c_fc-bias", OPENAI_MODEL, "mlp.c_fc.bias is used."),
        ("mlp-c_proj-bias", OPENAI_MODEL, "mlp.c_proj.bias is used."),
        ("ln_1", OPENAI_MODEL, "ln_1's weight and bias are used, channel by channel."),
        ("ln_2", OPENAI_MODEL, "ln_2's weight and bias are used, channel by channel."),
        ("ln_f", OPENAI_MODEL, "ln_f's weight and bias are used, channel by channel."),
    ),
    *_family(
        "head",
        ("raw", OPENAI_MODEL,
         "Logits are ln_f's output times wte; a constant added to a position is a variant."),
    ),
    *_family(
        "config",
        ("attention-scaling", HF_MODEL,
         "A config that scales attention in another way is followed or refused, not ignored."),
        ("activation", HF_MODEL,
         "A config with another activation_function is followed or refused, not ignored."),
        ("epsilon", HF_MODEL,
         "A config with another layer_norm_epsilon is followed or refused, not ignored."),
    ),
    *_family(
        "context",
        ("too-long", HF_MODEL, "More tokens than n_positions are refused."),
        ("positions", OPENAI_MODEL,
         "Each of 1024 positions has a row of wpe to itself: token i has row i."),
    ),
    *_family(
        "cache",
        ("splits", OPENAI_MODEL,
         "A sequence has the same logits in any number of pieces as in one."),
        ("steps", OPENAI_MODEL,
         "The 124M shape has the same logits when it gets one token at a time."),
        ("bfloat16", OPENAI_MODEL,
         "In bfloat16 too, a sequence has the same logits in pieces as in one."),
        ("far-past", OPENAI_MODEL,
         "In pieces too, a token sees as far back as the context of 1024 tokens allows."),
        ("long", OPENAI_MODEL,
         "Hundreds of tokens too have the same logits in pieces as in one, wherever a block ends."),
        ("too-long", HF_MODEL, "A step past n_positions is refused."),
        ("branches", OPENAI_MODEL, "Two continuations of one prefix do not see each other."),
        ("second-prompt", OPENAI_MODEL,
         "A second prompt sees nothing of the first, even in a batch of another size."),
    ),
    *_family(
        "eos",
        ("first-step", TEXTBOOK, "With EOS as the first new token, there are no new tokens."),
        ("middle", TEXTBOOK, "EOS ends a sequence and is not part of the result."),
        ("last-step", TEXTBOOK, "EOS at the last step is not part of the result either."),
        ("never", TEXTBOOK,
         "Without EOS, there are exactly max_new_tokens new tokens, also for 0 and 1."),
        ("no-other", TEXTBOOK,
         "Neither another token nor a smaller number of new tokens ends a text."),
        ("per-row", DESIGN, "Each row of a batch stops by itself, and the others go on."),
        ("in-prompt", DESIGN, "EOS inside the prompt ends nothing."),
        ("probability", TEXTBOOK,
         "A sampled EOS ends a row with its probability: lengths are geometric."),
    ),
    *_family(
        "generation",
        ("greedy", TEXTBOOK,
         "Temperature 0 gives the tokens of a loop that feeds the whole sequence each step."),
        ("window", TEXTBOOK,
         "Past n_positions, the last n_positions tokens are used, from position 0."),
        ("induction", OPENAI_MODEL,
         "A pair of words is followed again by the word that followed it before, at every step."),
        ("far-past", OPENAI_MODEL,
         "A new token sees as far back as the context of 1024 tokens allows."),
        ("exact-fit", TEXTBOOK,
         "A prompt and its new tokens may fill the context to its last position."),
        ("empty-prompt", DESIGN,
         "A prompt without tokens starts from <|endoftext|>, or is refused."),
        ("leaves-no-trace", DESIGN,
         "Generation changes nothing: the logits are the same before and after."),
        ("second-prompt", DESIGN,
         "A prompt gets the tokens of a new model, whatever prompts were given before."),
        ("dropout", OPENAI_MODEL,
         "A config with dropout, which is for training, changes no new token."),
        ("ragged", DESIGN,
         "A prompt in a batch with longer ones gets the tokens that it gets alone."),
        ("ragged-eos", DESIGN, "EOS in such a prompt is a token like any other, not padding."),
    ),
    *_family(
        "sampling",
        ("temperature-zero", DESIGN,
         "Temperature 0 takes the largest logit, whatever the seed and top_k."),
        ("top-k-one", OPENAI_SAMPLE, "top_k=1 takes the largest logit at any temperature."),
        ("top-k", OPENAI_SAMPLE,
         "Tokens below the k-th largest logit are never drawn, and all others are."),
        ("top-k-ties", OPENAI_SAMPLE, "Every token tied with the k-th largest logit stays."),
        ("top-k-above-vocabulary", DESIGN,
         "A top_k of the vocabulary's size or more is no restriction."),
        ("top-k-none", DESIGN, "top_k=None is no restriction."),
        ("top-k-zero", DESIGN, "top_k=0 is refused by name, or no restriction."),
        ("nan", DESIGN, "A NaN among the logits is an error and gives no token."),
        ("distribution", OPENAI_SAMPLE,
         "Tokens are drawn from softmax(logits / temperature) over the top_k."),
        ("temperature-range", OPENAI_SAMPLE,
         "Temperatures from 1e-8 to 100 give softmax(logits / temperature) in each dtype."),
        ("rare-tokens", OPENAI_SAMPLE,
         "Unlikely tokens are drawn as often as others let them: top_k alone restricts a draw."),
        ("many-tokens", OPENAI_SAMPLE,
         "Of 50,256 tokens that are nearly alike, draws seldom give the same one twice."),
        ("close-logits", OPENAI_SAMPLE,
         "Of two logits that are 2^-12 apart, temperature 0 and top_k=1 take the larger."),
        ("repetition", OPENAI_SAMPLE,
         "A token that was said is as likely as before: no penalty, no blocked n-grams."),
        ("independent-draws", OPENAI_SAMPLE, "Rows and steps draw independently of each other."),
        ("seed", DESIGN,
         "The same seed gives the same tokens, another seed others; nothing else matters."),
    ),
    *_family(
        "text",
        ("encode", OPENAI_ENCODER, "Text becomes the ids that OpenAI's merges give."),
        ("decode", OPENAI_ENCODER,
         "Ids become the text again, also a character of several tokens."),
        ("cut-character", OPENAI_ENCODER,
         "Bytes that are no whole character become U+FFFD, and the text around them stays."),
        ("special", DESIGN, "<|endoftext|> typed in a text stays text."),
        ("unknown-id", DESIGN, "An id that is no token's is not decoded as another token's text."),
    ),
    *_family(
        "laws",
        ("repeatable", OPENAI_MODEL,
         "The same tokens have the same logits again, even if the config has dropout."),
        ("rows-independent", OPENAI_MODEL,
         "A row's logits do not depend on the other rows of its batch."),
        ("prefix", OPENAI_MODEL,
         "The logits of a prefix are the prefix of the logits: no token sees a later one."),
        ("vocabulary-permutation", OPENAI_MODEL,
         "Renumbering the vocabulary renumbers the logits."),
    ),
]  # fmt: skip

REQUIREMENTS = {requirement.id: requirement for requirement in _ALL}


def requirement(requirement_id: str) -> pytest.MarkDecorator:
    """Mark a test as one of those that decide the requirement.

    Raises ValueError, naming the id, if there is no such requirement.
    """
    if requirement_id not in REQUIREMENTS:
        raise ValueError(f"requirement {requirement_id!r}: not in requirements.py")
    return pytest.mark.requirement(requirement_id)
