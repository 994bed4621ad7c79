"""Adapter for TransformerLens' HookedTransformer, which TransformerLens 4 does not have.

    pip install 'transformer_lens<4'
    pytest conformance/ --implementation conformance.adapters.transformer_lens

transformers reads the checkpoint, and TransformerLens's convert_gpt2_weights converts the model. No
weight is folded or centred. HookedTransformer.from_pretrained does the same, but it assumes an MLP
of width 4 * n_embd and can't load a folder. There is no tokenizer: tokens go in, tokens come out.

Its generate() with the cache and without a tokenizer uses wrong rows of wpe (3.9.0: get_residual()
gets all tokens so far and their number as the offset). With `:load_uncached`, generate() uses no
cache and is right.

Not applicable: state_dict, since the weights have other shapes; generation beyond n_positions.
"""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

from . import huggingface

EOS = 50256


class TransformerLens:
    def __init__(self, model: HookedTransformer, *, cached: bool) -> None:
        self.model = model
        self.cached = cached

    @torch.inference_mode()
    def logits(self, token_ids: Tensor) -> Tensor:
        return self.model(token_ids)

    def generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        batch, time = token_ids.shape
        if time + max_new_tokens - 1 > self.model.cfg.n_ctx:
            raise NotImplementedError("TransformerLens ends at n_ctx")
        if max_new_tokens == 0:  # TransformerLens refuses 0
            return [[] for _ in range(batch)]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            rows = self.model.generate(
                token_ids,
                max_new_tokens=max_new_tokens,
                eos_token_id=EOS,
                temperature=temperature,
                top_k=top_k,
                use_past_kv_cache=self.cached,
                verbose=False,
            )
        return [row[: row.index(EOS)] if EOS in row else row for row in rows[:, time:].tolist()]

    def prefill(self, token_ids: Tensor) -> tuple[Tensor, TransformerLensKeyValueCache]:
        cfg = self.model.cfg
        return self.step(
            token_ids, TransformerLensKeyValueCache.init_cache(cfg, cfg.device, len(token_ids))
        )

    @torch.inference_mode()
    def step(
        self, token_ids: Tensor, cache: TransformerLensKeyValueCache
    ) -> tuple[Tensor, TransformerLensKeyValueCache]:
        cache = copy.deepcopy(cache)  # the model extends a cache in place
        # Without this mask of the new tokens, the model would ask a tokenizer for one.
        return self.model(
            token_ids, past_kv_cache=cache, attention_mask=torch.ones_like(token_ids)
        ), cache


def load(
    checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, cached: bool = True
) -> TransformerLens:
    source = huggingface.load(checkpoint, device=device, dtype=dtype).model
    config = source.config
    cfg = HookedTransformerConfig(
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_ctx=config.n_positions,
        n_heads=config.n_head,
        d_head=config.n_embd // config.n_head,
        d_mlp=config.n_inner or 4 * config.n_embd,
        d_vocab=config.vocab_size,
        act_fn=config.activation_function,
        eps=config.layer_norm_epsilon,
        normalization_type="LN",
        device=device,
        dtype=dtype,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # "will be removed in 4.0"
        model = HookedTransformer(cfg)
    model.load_and_process_state_dict(
        convert_gpt2_weights(source, cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return TransformerLens(model.eval(), cached=cached)


def load_uncached(
    checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> TransformerLens:
    """Load with a generate() that uses no cache."""
    return load(checkpoint, device=device, dtype=dtype, cached=False)
