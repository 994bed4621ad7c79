"""Adapter for llama.cpp, by llama-cpp-python's bindings of its C interface.

    pip install llama-cpp-python gguf
    pytest conformance/ --implementation conformance.adapters.llama_cpp

The checkpoint is loaded as gpt2ref loads it, and written as a GGUF file as llama.cpp's
convert_hf_to_gguf.py does, without quantisation. So what a file or a config asks is gpt2ref's to
refuse. The cache has the dtype of the weights.

With weights in float32 too, llama.cpp computes partly in float16, and is judged so: on a CPU, ggml
reads GELU from a table with an entry for each float16, and its flash attention, which it takes by
itself, has keys and values in float16. Either moves logits by 2e-3 to 5e-3 where they are about 5.

Not applicable: float64; prefill and step, since the cache belongs to a context; state_dict; a
prompt without tokens. It ends at n_positions, where the process would abort.

Known to be wrong in llama-cpp-python 0.3.36: a NaN among the logits is drawn from without an error.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"
from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from torch import Tensor

from gpt2ref import EOS, GPT2, load_checkpoint

ROWS = 64  # of a batch: llama.cpp has a limit
# Parameter names of GPT2 -> of llama.cpp, where those of a layer begin with `blk.N.`
_LAYER = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_OUTSIDE = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
TYPES = {
    torch.float32: gguf.GGMLQuantizationType.F32,
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    torch.float16: gguf.GGMLQuantizationType.F16,
}


@llama_cpp.llama_log_callback
def _silent(_level: int, _text: bytes, _data: object) -> None:
    pass


class LlamaCpp:
    def __init__(self, checkpoint: str, dtype: torch.dtype) -> None:
        self.precision = "bfloat16" if dtype == torch.bfloat16 else "float16"
        loaded = load_checkpoint(checkpoint)
        self.config, self.dtype = loaded.config, dtype
        with tempfile.TemporaryDirectory() as folder:
            write_gguf(loaded, Path(folder) / "model.gguf", dtype)
            self.model = load_gguf(Path(folder) / "model.gguf", use_mmap=False)

    def __del__(self) -> None:
        if model := getattr(self, "model", None):
            llama_cpp.llama_model_free(model)

    def logits(self, token_ids: Tensor) -> Tensor:
        self._check(token_ids.size(1))
        found = []
        for rows in token_ids.split(ROWS):
            with self._context(rows.numel(), len(rows)) as context:
                feed(context, rows.tolist(), 0, every=True)
                numbers = llama_cpp.llama_get_logits(context)
                shape = (*rows.shape, self.config.vocab_size)
                found.append(np.ctypeslib.as_array(numbers, shape).copy())
        return torch.from_numpy(np.concatenate(found))

    def generate(
        self,
        token_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        self._check(token_ids.size(1) + max_new_tokens - 1)
        if token_ids.size(1) == 0:
            raise NotImplementedError("llama.cpp is fed one token at least")
        sampler = sampler_of(temperature, top_k, seed)
        new = []
        for rows in token_ids.split(ROWS):
            with self._context(rows.numel() + len(rows) * max_new_tokens, len(rows)) as context:
                new += self._continued(context, sampler, rows.tolist(), max_new_tokens)
        llama_cpp.llama_sampler_free(sampler)
        return new

    def _continued(
        self, context: Any, sampler: Any, prompts: list[list[int]], steps: int
    ) -> list[list[int]]:
        new: list[list[int]] = [[] for _ in prompts]
        fed, position, ended = prompts, 0, [False] * len(prompts)
        for _ in range(steps):
            last = feed(context, fed, position)
            position += len(fed[0])
            fed = [[llama_cpp.llama_sampler_sample(sampler, context, index)] for index in last]
            for row, [token] in enumerate(fed):
                ended[row] |= token == EOS
                new[row] += [] if ended[row] else [token]
        return new

    def _check(self, tokens: int) -> None:
        if tokens > self.config.n_positions:
            raise NotImplementedError("llama.cpp ends at n_positions")

    @contextmanager
    def _context(self, tokens: int, rows: int) -> Iterator[Any]:
        context = new_context(self.model, tokens, rows, self.dtype)
        try:
            yield context
        finally:
            llama_cpp.llama_free(context)


def load(checkpoint: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LlamaCpp:
    if device != "cpu" or dtype not in TYPES:
        raise NotImplementedError(f"llama.cpp is judged on the CPU, not in {dtype} on {device}")
    return LlamaCpp(checkpoint, dtype)


def load_gguf(path: Path, **options: Any) -> Any:
    """Return llama.cpp's model of a file. `options`: fields of its parameters."""
    llama_cpp.llama_log_set(_silent, None)
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    for name, value in options.items():
        setattr(parameters, name, value)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise OSError(f"{path}: llama.cpp can't load it")
    return model


def new_context(model: Any, tokens: int, rows: int, dtype: torch.dtype) -> Any:
    """Return a context with a cache of that many tokens, in that many rows."""
    options = llama_cpp.llama_context_default_params()
    options.n_seq_max = rows
    options.n_ctx = options.n_batch = tokens
    options.type_k = options.type_v = int(TYPES[dtype])
    options.n_threads = options.n_threads_batch = torch.get_num_threads()
    context = llama_cpp.llama_init_from_model(model, options)
    if not context:
        raise MemoryError(f"llama.cpp can't make a context of {rows} rows, {tokens} tokens in all")
    return context


def feed(
    context: Any, token_ids: Sequence[Sequence[int]], position: int, *, every: bool = False
) -> list[int]:
    """Feed token ids. Return the index of the logits of each row's last token.

    `every`: whether the logits of all positions are computed.
    """
    count = sum(map(len, token_ids))
    batch = llama_cpp.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    last, index = [], 0
    for row, ids in enumerate(token_ids):
        for offset, token_id in enumerate(ids):
            batch.token[index] = token_id
            batch.pos[index] = position + offset
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row
            batch.logits[index] = every or offset == len(ids) - 1
            index += 1
        last.append(index - 1)
    failed = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if failed:
        raise RuntimeError(
            f"llama_decode: error {failed}, feeding {count} tokens at position {position}"
        )
    return last


def sampler_of(temperature: float, top_k: int | None, seed: int) -> Any:
    """Return a chain of llama.cpp's samplers, which the caller frees."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if temperature == 0:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
        return chain
    if top_k is not None:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_top_k(top_k))
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_temp(temperature))
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed))
    return chain


def write_gguf(model: GPT2, path: Path, dtype: torch.dtype) -> None:
    """Write a GGUF file as llama.cpp's convert_hf_to_gguf.py does.

    Matrices are in `dtype`, everything else in float32. The head is a tensor of its own.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, parameter in model.state_dict().items():
        matrix = parameter.dim() == 2 and not name.endswith("wpe.weight")
        _add(writer, _gguf_name(name), parameter, dtype if matrix else torch.float32)
    _add(writer, "output.weight", model.transformer.wte.weight, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, parameter: Tensor, dtype: torch.dtype) -> None:
    # numpy has no bfloat16, so the writer gets the bytes.
    values = parameter.detach().to(dtype).contiguous()
    array = values.view(torch.uint8).numpy() if dtype == torch.bfloat16 else values.numpy()
    writer.add_tensor(name, array, raw_dtype=TYPES[dtype])


def _gguf_name(name: str) -> str:
    stem, kind = name.removeprefix("transformer.").rsplit(".", 1)
    if stem.startswith("h."):
        _, layer, part = stem.split(".", 2)
        return f"blk.{layer}.{_LAYER[part]}.{kind}"
    return f"{_OUTSIDE[stem]}.{kind}"
