"""OpenVINO GenAI's continuous batching, without quantisation."""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
import openvino_genai
import torch
from torch import Tensor

from gpt2ref import GPT2, load_checkpoint

from ..sampling import Sampling
from .protocol import Implementation, TokenIds

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVino(Implementation):
    source = "its own format, converted beforehand"

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = 2**20
        scheduler.enable_prefix_caching = False
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            checkpoint,
            openvino_genai.Tokenizer(checkpoint),
            scheduler,
            "CPU",
            INFERENCE_PRECISION_HINT=_PRECISIONS[dtype],
            KV_CACHE_PRECISION=_PRECISIONS[dtype],
            DYNAMIC_QUANTIZATION_GROUP_SIZE=0,
            INFERENCE_NUM_THREADS=torch.get_num_threads(),
            sampler_num_threads=torch.get_num_threads(),
        )

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        rows = [
            self.pipeline.add_request(
                number,
                openvino.Tensor(np.array([prompt], dtype=np.int64)),
                _options(sampling, max_new_tokens, seed + number),
            )
            for number, prompt in enumerate(prompts)
        ]
        new: TokenIds = [[] for _ in prompts]
        steps = 0
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            for row, handle in zip(new, rows, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        row += output.generated_ids
            if min(map(len, new)) > steps:
                steps += 1
                on_step()
        return new

    @classmethod
    def convert(cls, checkpoint: Path, folder: Path) -> Path:
        folder.mkdir()
        model = _Graph(load_checkpoint(checkpoint).float()).model()
        openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
        return folder

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"OpenVINO is measured on the CPU only, not on {device.type}"
        if dtype not in _PRECISIONS:
            return f"OpenVINO is not asked for {dtype}"
        return None


def _options(sampling: Sampling, max_new_tokens: int, seed: int) -> Any:
    options = openvino_genai.GenerationConfig()
    options.max_new_tokens = max_new_tokens
    options.ignore_eos = True
    options.set_eos_token_id(2**31)
    if sampling.temperature > 0:
        options.do_sample = True
        options.temperature = sampling.temperature
        options.rng_seed = seed
        if sampling.top_k is not None:
            options.top_k = sampling.top_k
    return options


class _Graph:
    def __init__(self, model: GPT2) -> None:
        self.config = model.config
        self.parameters = {
            name.removeprefix("transformer."): parameter
            for name, parameter in model.state_dict().items()
        }
        self.assigned: list[Any] = []
        self.ids, self.mask, self.positions, self.rows = (
            _input("input_ids", [-1, -1]),
            _input("attention_mask", [-1, -1]),
            _input("position_ids", [-1, -1]),
            _input("beam_idx", [-1], openvino.Type.i32),
        )

    def model(self) -> openvino.Model:
        x = ops.add(
            ops.gather(self._parameter("wte.weight"), self.ids, 0),
            ops.gather(self._parameter("wpe.weight"), self.positions, 0),
        )
        for layer in range(self.config.n_layer):
            x = self._block(f"h.{layer}", x)
        logits = ops.matmul(self._norm("ln_f", x), self._parameter("wte.weight"), False, True)
        logits.output(0).tensor.set_names({"logits"})
        return openvino.Model(
            [ops.result(logits)],
            self.assigned,
            [self.ids, self.mask, self.positions, self.rows],
            "gpt2",
        )

    def _block(self, name: str, x: Any) -> Any:
        config = self.config
        qkv = self._linear(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", x))
        parts = ops.split(qkv, 2, 3)
        q, k, v = (self._heads(part) for part in parts.outputs())
        k, v = self._remember(f"{name}.key", k), self._remember(f"{name}.value", v)
        y = ops.scaled_dot_product_attention(q, k, v, self._visible(k))
        y = ops.reshape(ops.transpose(y, [0, 2, 1, 3]), [0, 0, config.n_embd], True)
        x = ops.add(x, self._linear(f"{name}.attn.c_proj", y))
        hidden = self._linear(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", x))
        hidden = ops.gelu(hidden, "tanh")
        return ops.add(x, self._linear(f"{name}.mlp.c_proj", hidden))

    def _heads(self, x: Any) -> Any:
        shape = [0, 0, self.config.n_head, self.config.head_width]
        return ops.transpose(ops.reshape(x, shape, True), [0, 2, 1, 3])

    def _remember(self, name: str, new: Any) -> Any:
        """Append to a variable of the model, whose rows are those of beam_idx."""
        n_head, width = self.config.n_head, self.config.head_width
        batch = ops.gather(ops.shape_of(self.ids), [0], 0)
        empty = ops.broadcast(
            np.float32(0), ops.concat([batch, np.array([n_head, 0, width])], 0)
        )
        past = ops.read_value(empty, name, openvino.Type.f32, openvino.PartialShape([-1, n_head, -1, width]))
        whole = ops.concat([ops.gather(past, self.rows, 0), new], 2)
        self.assigned.append(ops.assign(whole, name))
        return whole

    def _visible(self, k: Any) -> Any:
        seen = ops.gather(ops.shape_of(k), 2, 0)
        keys = ops.range(np.int64(0), seen, np.int64(1), "i64")
        return ops.less_equal(keys, ops.unsqueeze(self.positions, [1, 3]))

    def _norm(self, name: str, x: Any) -> Any:
        x = ops.mvn(x, [-1], True, self.config.layer_norm_epsilon, "inside_sqrt")
        x = ops.multiply(x, self._parameter(f"{name}.weight"))
        return ops.add(x, self._parameter(f"{name}.bias"))

    def _linear(self, name: str, x: Any) -> Any:
        product = ops.matmul(x, self._parameter(f"{name}.weight"), False, True)
        return ops.add(product, self._parameter(f"{name}.bias"))

    def _parameter(self, name: str) -> Any:
        return ops.constant(self.parameters[name].contiguous().numpy(), name=name)


def _input(name: str, shape: list[int], dtype: openvino.Type = openvino.Type.i64) -> Any:
    parameter = ops.parameter(openvino.PartialShape(shape), dtype, name=name)
    parameter.output(0).tensor.set_names({name})
    return parameter
