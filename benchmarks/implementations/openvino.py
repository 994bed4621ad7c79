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

from gpt2ref import GPT2, load_checkpoint

from ..sampling import Sampling
from .protocol import Implementation, TokenIds

# What OpenVINO calls a dtype: as a property, and among the capabilities of a device
_PRECISIONS = {torch.float32: ("f32", "FP32"), torch.bfloat16: ("bf16", "BF16")}

_NO_TOKEN = 2**31  # an id beyond any vocabulary


class OpenVino(Implementation):
    source = "its own format, converted beforehand"

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:  # noqa: ARG002 - it is the CPU
        scheduler = openvino_genai.SchedulerConfig()
        # All prompts are fed at once, however long and many they are.
        scheduler.max_num_batched_tokens = 2**20
        scheduler.max_num_seqs = 2**12
        precision, _ = _PRECISIONS[dtype]
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            checkpoint,
            openvino_genai.Tokenizer(checkpoint),  # of a folder without one; it only has ids
            scheduler,
            "CPU",
            # By default it computes in bfloat16 where it can, keeps a cache of 8 bits, and
            # quantises activations.
            INFERENCE_PRECISION_HINT=precision,
            KV_CACHE_PRECISION=precision,
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
        requests = [
            self.pipeline.add_request(
                number,
                openvino.Tensor(np.array([prompt], dtype=np.int64)),
                _options(sampling, max_new_tokens, seed + number),
            )
            for number, prompt in enumerate(prompts)
        ]
        try:
            return self._steps(requests, max_new_tokens, on_step)
        finally:  # a request that an error has left would take part in the next call
            for request in requests:
                request.cancel()
            while self.pipeline.has_non_finished_requests():
                self.pipeline.step()

    def _steps(
        self, requests: list[Any], max_new_tokens: int, on_step: Callable[[], None]
    ) -> TokenIds:
        new: TokenIds = [[] for _ in requests]
        for _ in range(max_new_tokens):
            self.pipeline.step()
            for row, request in zip(new, requests, strict=True):
                if not request.can_read():  # read would wait for ever
                    raise RuntimeError(f"OpenVINO gave no token {len(row)} of a row in its step")
                [output] = request.read().values()
                row += output.generated_ids
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
            return f"OpenVINO is run on the CPU only, not on {device.type}"
        if dtype not in _PRECISIONS:
            return f"OpenVINO is run in float32 and bfloat16 only, not in {_name(dtype)}"
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        _, capability = _PRECISIONS[dtype]
        return None if capability in able else f"OpenVINO has no {_name(dtype)} on this processor"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _options(sampling: Sampling, max_new_tokens: int, seed: int) -> Any:
    options = openvino_genai.GenerationConfig()
    options.max_new_tokens = max_new_tokens
    options.ignore_eos = True
    options.set_eos_token_id(_NO_TOKEN)
    if sampling.temperature > 0:
        options.do_sample = True
        options.temperature = sampling.temperature
        options.rng_seed = seed
        if sampling.top_k is not None:
            options.top_k = sampling.top_k
    return options


class _Graph:
    """Builds GPT-2 as the models that GenAI takes: the cache is in variables of the graph."""

    def __init__(self, model: GPT2) -> None:
        self.config = model.config
        self.parameters = {
            name.removeprefix("transformer."): parameter
            for name, parameter in model.state_dict().items()
        }
        self.ids = _input("input_ids", 2)
        self.positions = _input("position_ids", 2)
        self.rows = _input("beam_idx", 1, openvino.Type.i32)
        self.assigned: list[Any] = []

    def model(self) -> openvino.Model:
        x = ops.add(
            ops.gather(self._parameter("wte.weight"), self.ids, 0),
            ops.gather(self._parameter("wpe.weight"), self.positions, 0),
        )
        for layer in range(self.config.n_layer):
            x = self._block(f"h.{layer}", x)
        logits = ops.matmul(self._norm("ln_f", x), self._parameter("wte.weight"), False, True)
        logits.output(0).tensor.set_names({"logits"})
        # GenAI gives the mask too, but all rows are of one length here.
        inputs = [self.ids, _input("attention_mask", 2), self.positions, self.rows]
        return openvino.Model([ops.result(logits)], self.assigned, inputs, "gpt2")

    def _block(self, name: str, x: Any) -> Any:
        qkv = self._linear(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", x))
        q, k, v = (self._heads(part) for part in ops.split(qkv, 2, 3).outputs())
        keys, values = self._remember(f"{name}.key", k), self._remember(f"{name}.value", v)
        y = ops.scaled_dot_product_attention(q, keys, values, self._visible(keys))
        y = ops.reshape(ops.transpose(y, [0, 2, 1, 3]), [0, 0, self.config.n_embd], True)
        x = ops.add(x, self._linear(f"{name}.attn.c_proj", y))
        hidden = self._linear(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", x))
        return ops.add(x, self._linear(f"{name}.mlp.c_proj", ops.gelu(hidden, "tanh")))

    def _heads(self, x: Any) -> Any:
        shape = [0, 0, self.config.n_head, self.config.head_width]
        return ops.transpose(ops.reshape(x, shape, True), [0, 2, 1, 3])

    def _remember(self, name: str, new: Any) -> Any:
        """Append to a variable, and return all of it: [batch, n_head, seen, head_width]."""
        n_head, width = self.config.n_head, self.config.head_width
        batch = ops.gather(ops.shape_of(self.ids), [0], 0)
        nothing = ops.broadcast(
            np.float32(0), ops.concat([batch, np.array([n_head, 0, width])], axis=0)
        )
        shape = openvino.PartialShape([-1, n_head, -1, width])
        past = ops.read_value(nothing, name, openvino.Type.f32, shape)
        seen = ops.concat([ops.gather(past, self.rows, 0), new], axis=2)
        self.assigned.append(ops.assign(seen, name))
        return seen

    def _visible(self, keys: Any) -> Any:
        """Return which keys each query sees: those up to its own position."""
        seen = ops.gather(ops.shape_of(keys), 2, 0)
        places = ops.range(np.int64(0), seen, np.int64(1), "i64")
        return ops.less_equal(places, ops.unsqueeze(self.positions, [1, 3]))

    def _norm(self, name: str, x: Any) -> Any:
        x = ops.mvn(x, [-1], True, self.config.layer_norm_epsilon, "inside_sqrt")
        x = ops.multiply(x, self._parameter(f"{name}.weight"))
        return ops.add(x, self._parameter(f"{name}.bias"))

    def _linear(self, name: str, x: Any) -> Any:
        product = ops.matmul(x, self._parameter(f"{name}.weight"), False, True)
        return ops.add(product, self._parameter(f"{name}.bias"))

    def _parameter(self, name: str) -> Any:
        return ops.constant(self.parameters[name].contiguous().numpy(), name=name)


def _input(name: str, rank: int, dtype: Any = openvino.Type.i64) -> Any:
    value = ops.parameter(openvino.PartialShape([-1] * rank), dtype, name=name)
    value.output(0).tensor.set_names({name})
    return value
