"""llama.cpp by llama-cpp-python's bindings of its C interface, without quantisation."""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import torch

from gpt2ref import GPT2, load_checkpoint

from ..sampling import Sampling
from .protocol import Implementation, TokenIds

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

_TYPES = {
    torch.float32: gguf.GGMLQuantizationType.F32,
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    torch.float16: gguf.GGMLQuantizationType.F16,
}


@llama_cpp.llama_log_callback
def _silent(_level: int, _text: bytes, _data: object) -> None:
    pass


class LlamaCpp(Implementation):
    source = "its own format, converted beforehand"

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        llama_cpp.llama_log_set(_silent, None)
        llama_cpp.llama_backend_init()
        self.dtype = dtype
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0 if device.type == "cpu" else 1_000
        options.main_gpu = device.index or 0
        path = checkpoint / f"{_name(dtype)}.gguf"
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self.model:
            raise OSError(f"{path}: llama.cpp can't load it")
        self.context: Any = None
        self.room = 0, 0  # the size of the context: rows, and tokens in each

    def __del__(self) -> None:
        if getattr(self, "context", None):
            llama_cpp.llama_free(self.context)
        if getattr(self, "model", None):
            llama_cpp.llama_model_free(self.model)

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        self._make_room(len(prompts), len(prompts[0]) + max_new_tokens)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        sampler = _sampler(sampling, seed)
        new: TokenIds = [[] for _ in prompts]
        position, fed = 0, prompts
        for _ in range(max_new_tokens):
            last = self._feed(fed, position)
            position += len(fed[0])
            fed = [[llama_cpp.llama_sampler_sample(sampler, self.context, index)] for index in last]
            for row, token_ids in zip(new, fed, strict=True):
                row += token_ids
            on_step()
        llama_cpp.llama_sampler_free(sampler)
        return new

    def _make_room(self, rows: int, tokens: int) -> None:
        if self.room == (rows, tokens):
            return
        if self.context:
            llama_cpp.llama_free(self.context)
        options = llama_cpp.llama_context_default_params()
        options.n_seq_max = rows
        options.n_ctx = rows * tokens
        options.n_batch = rows * tokens
        options.type_k = options.type_v = int(_TYPES[self.dtype])
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise MemoryError(f"llama.cpp can't make a context of {rows} rows of {tokens} tokens")
        self.room = rows, tokens

    def _feed(self, token_ids: TokenIds, position: int) -> list[int]:
        """Feed token ids. Return the index of the logits of each row's last token."""
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
                batch.logits[index] = offset == len(ids) - 1
                index += 1
            last.append(index - 1)
        failed = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise RuntimeError(
                f"llama_decode: error {failed}, feeding {count} tokens at position {position}"
            )
        return last

    @classmethod
    def convert(cls, checkpoint: Path, folder: Path) -> Path:
        folder.mkdir()
        model = load_checkpoint(checkpoint)
        for dtype in _TYPES:
            _write(model, folder / f"{_name(dtype)}.gguf", dtype)
        return folder

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:  # noqa: ARG003 - it has all three
        able = device.type == "cpu" or llama_cpp.llama_supports_gpu_offload()
        return None if able else "llama-cpp-python was built without CUDA"


def _sampler(sampling: Sampling, seed: int) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if sampling.temperature == 0:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
        return chain
    if sampling.top_k is not None:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_top_k(sampling.top_k))
    llama_cpp.llama_sampler_chain_add(
        chain, llama_cpp.llama_sampler_init_temp(sampling.temperature)
    )
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed))
    return chain


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write(model: GPT2, path: Path, dtype: torch.dtype) -> None:
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


def _add(writer: gguf.GGUFWriter, name: str, parameter: torch.Tensor, dtype: torch.dtype) -> None:
    # numpy has no bfloat16, so the writer gets the bytes.
    values = parameter.detach().to(dtype).contiguous()
    array = values.view(torch.uint8).numpy() if dtype == torch.bfloat16 else values.numpy()
    writer.add_tensor(name, array, raw_dtype=_TYPES[dtype])


def _gguf_name(name: str) -> str:
    stem, kind = name.removeprefix("transformer.").rsplit(".", 1)
    if stem.startswith("h."):
        _, layer, part = stem.split(".", 2)
        return f"blk.{layer}.{_LAYER[part]}.{kind}"
    return f"{_OUTSIDE[stem]}.{kind}"
