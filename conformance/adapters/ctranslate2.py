"""Adapter for CTranslate2's Generator.

    pip install ctranslate2
    pytest conformance/ --implementation conformance.adapters.ctranslate2

CTranslate2's own TransformersConverter converts the checkpoint, without quantisation. The converter
needs a tokenizer, which the suite's checkpoints do not have, so the name of a token is its id. The
logits are those of forward_batch, for all positions.

Not applicable: float64, and half precision on most CPUs, which CTranslate2 does not compute in;
prefill and step, since its cache is private; state_dict. It refuses a top_k above the vocabulary,
and ends at n_positions.

Known to be wrong in 4.8: transformers, which reads the file, fills missing tensors with random
numbers and drops others; the converter ignores layer_norm_epsilon and both options of the scale of
attention; and a NaN among the logits is drawn from without an error.
"""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from torch import Tensor
from transformers import GPT2Config

EOS = 50256


class Names:
    """The part of a tokenizer that the converter uses."""

    bos_token = eos_token = unk_token = str(EOS)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def get_vocab(self) -> dict[str, int]:
        return {str(token_id): token_id for token_id in range(self.vocab_size)}


class Converter(TransformersConverter):
    def load_tokenizer(self, _tokenizer_class: object, model_name_or_path: str, **_: Any) -> Names:
        return Names(GPT2Config.from_pretrained(model_name_or_path).vocab_size)


class CTranslate2:
    def __init__(self, checkpoint: str, **options: Any) -> None:
        self.config = GPT2Config.from_pretrained(checkpoint)
        with tempfile.TemporaryDirectory() as folder:
            model = Path(Converter(checkpoint).convert(f"{folder}/model"))
            files = {path.name: path.read_bytes() for path in model.iterdir()}
        # With files, the path is only a name.
        self.options = {"model_path": checkpoint, "files": files, **options}
        self.generator = ctranslate2.Generator(**self.options)

    def logits(self, token_ids: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self.generator.forward_batch(token_ids.tolist())))

    def generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        if token_ids.size(1) + max_new_tokens - 1 > self.config.n_positions:
            raise NotImplementedError("CTranslate2 ends at n_positions")
        if (top_k or 0) > self.config.vocab_size:
            raise NotImplementedError("CTranslate2 refuses a sampling_topk above the vocabulary")
        if max_new_tokens == 0:  # CTranslate2 refuses 0
            return [[] for _ in token_ids]
        # A thread reads the seed at its first draw, and each Generator has its own threads. So a
        # new Generator is made for each seed.
        ctranslate2.set_random_seed(seed)
        results = ctranslate2.Generator(**self.options).generate_batch(
            [[str(token_id) for token_id in row] for row in token_ids.tolist()],
            max_length=max_new_tokens,
            sampling_topk=(top_k or 0) if temperature > 0 else 1,  # 0 is no restriction
            sampling_temperature=temperature or 1.0,
            end_token=[EOS],
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]


def load(
    checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> CTranslate2:
    kind, _, index = device.partition(":")
    compute_type = str(dtype).removeprefix("torch.")
    if kind not in ("cpu", "cuda") or compute_type not in ctranslate2.get_supported_compute_types(
        kind
    ):
        raise NotImplementedError(f"CTranslate2 has no {compute_type} on {device}")
    return CTranslate2(
        checkpoint, device=kind, device_index=int(index or 0), compute_type=compute_type
    )
