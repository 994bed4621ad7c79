"""ONNX Runtime by onnxruntime-genai's Generator, without quantisation."""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir
import onnxruntime_genai
import torch
from onnx_ir.tape import Tape
from torch import Tensor

from gpt2ref import GPT2, GPT2Config, load_checkpoint

from ..sampling import Sampling
from .protocol import Implementation, TokenIds

# How long its threads wait actively for more work after a call. Measured: 40 to 55 ms.
SPINNING_SECONDS = 0.1

_FLOAT, _INT64 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.INT64


class OnnxRuntime(Implementation):
    source = "its own format, converted beforehand"

    def __init__(self, checkpoint: Path, device: torch.device, dtype: torch.dtype) -> None:  # noqa: ARG002 - the CPU and float32
        config = onnxruntime_genai.Config(str(checkpoint))
        options = {"intra_op_num_threads": torch.get_num_threads(), "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = onnxruntime_genai.Model(config)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """End the turn when its threads sleep. Before that they take a core from the next one."""
        yield
        time.sleep(SPINNING_SECONDS)

    def generate(
        self,
        prompts: TokenIds,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        seed: int,
        on_step: Callable[[], None],
    ) -> TokenIds:
        options = onnxruntime_genai.GeneratorParams(self.model)
        options.set_search_options(
            batch_size=len(prompts),
            max_length=len(prompts[0]) + max_new_tokens,
            **_draw(sampling, seed),
        )
        generator = onnxruntime_genai.Generator(self.model, options)
        generator.append_tokens(prompts)
        new: TokenIds = [[] for _ in prompts]
        for _ in range(max_new_tokens):
            generator.generate_next_token()
            for row, token_id in zip(new, generator.get_next_tokens(), strict=True):
                row.append(int(token_id))
            on_step()
        return new

    @classmethod
    def convert(cls, checkpoint: Path, folder: Path) -> Path:
        folder.mkdir()
        model = load_checkpoint(checkpoint).float()
        onnx_ir.save(_Graph(model).model(), folder / "model.onnx", external_data="model.onnx.data")
        (folder / "genai_config.json").write_text(json.dumps(_description(model.config)))
        return folder

    @classmethod
    def refusal(cls, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return f"ONNX Runtime is run on the CPU only, not on {device.type}"
        if dtype != torch.float32:
            name = str(dtype).removeprefix("torch.")
            return f"ONNX Runtime is run in float32 only on the CPU, not in {name}"
        return None


def _draw(sampling: Sampling, seed: int) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or 0,
        "top_p": 1.0,
        "random_seed": seed,
    }


def _description(config: GPT2Config) -> dict[str, Any]:
    """Return the genai_config.json: the names of the graph's inputs and outputs, and its shape."""
    return {
        "model": {
            "type": "phi",  # any decoder with a key and a value of each layer
            "vocab_size": config.vocab_size,
            "context_length": config.n_positions,
            "eos_token_id": [],  # nothing ends a text
            "pad_token_id": 0,
            "bos_token_id": 0,
            "decoder": {
                "filename": "model.onnx",
                "hidden_size": config.n_embd,
                "head_size": config.head_width,
                "num_attention_heads": config.n_head,
                "num_key_value_heads": config.n_head,
                "num_hidden_layers": config.n_layer,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": config.n_positions, "past_present_share_buffer": True},
    }


class _Graph:
    """Builds GPT-2 of the operators that onnxruntime-genai's own models consist of."""

    def __init__(self, model: GPT2) -> None:
        self.config = model.config
        self.parameters = {
            name.removeprefix("transformer."): parameter
            for name, parameter in model.state_dict().items()
        }
        self.tape = Tape()
        self.op = self.tape.op

    def model(self) -> onnx_ir.Model:
        ids, mask, positions = (
            _value(name, _INT64, ["batch", time])
            for name, time in (
                ("input_ids", "time"),
                ("attention_mask", "seen"),
                ("position_ids", "time"),
            )
        )
        past, present = self._cache("past_key_values", "past"), self._cache("present", "seen")
        x = self.op(
            "Add",
            [
                self.op("Gather", [self._parameter("wte.weight"), ids]),
                self.op("Gather", [self._parameter("wpe.weight"), positions]),
            ],
        )
        lengths = self._lengths(mask)
        for layer in range(self.config.n_layer):
            x = self._block(f"h.{layer}", x, past[layer], lengths, present[layer])
        logits = self._head(x)
        graph = onnx_ir.Graph(
            [ids, mask, positions, *(value for layer in past for value in layer)],
            [logits, *(value for layer in present for value in layer)],
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": 21, "com.microsoft": 1},
            name="gpt2",
        )
        return onnx_ir.Model(graph, ir_version=10)

    def _cache(self, name: str, time: str) -> list[list[onnx_ir.Value]]:
        shape: list[str | int] = ["batch", self.config.n_head, time, self.config.head_width]
        return [
            [_value(f"{name}.{layer}.{part}", _FLOAT, shape) for part in ("key", "value")]
            for layer in range(self.config.n_layer)
        ]

    def _lengths(self, mask: onnx_ir.Value) -> list[onnx_ir.Value]:
        """Return the last position of each row, and the number of tokens of the longest row."""
        one = self._constant("one", torch.tensor([1]))
        last = self.op("Sub", [self.op("ReduceSum", [mask, one], {"keepdims": 0}), one])
        seen = self.op("Squeeze", [self.op("Shape", [mask], {"start": 1})])
        return [self.op("Cast", [value], {"to": onnx_ir.DataType.INT32}) for value in (last, seen)]

    def _block(
        self,
        name: str,
        x: onnx_ir.Value,
        past: list[onnx_ir.Value],
        lengths: list[onnx_ir.Value],
        present: list[onnx_ir.Value],
    ) -> onnx_ir.Value:
        qkv = self._linear(f"{name}.attn.c_attn", self._norm(f"{name}.ln_1", x))
        heads = {"num_heads": self.config.n_head, "kv_num_heads": self.config.n_head}
        mixed = onnx_ir.Value(name=f"{name}.attn")
        self.tape.op_multi_out(
            "GroupQueryAttention",
            [qkv, None, None, *past, *lengths],
            heads,
            outputs=[mixed, *present],
            domain="com.microsoft",
        )
        x = self.op("Add", [x, self._linear(f"{name}.attn.c_proj", mixed)])
        hidden = self._linear(f"{name}.mlp.c_fc", self._norm(f"{name}.ln_2", x))
        hidden = self.op("Gelu", [hidden], {"approximate": "tanh"})
        return self.op("Add", [x, self._linear(f"{name}.mlp.c_proj", hidden)])

    def _head(self, x: onnx_ir.Value) -> onnx_ir.Value:
        """Return the logits of the last position: [batch, 1, vocab_size]."""
        last = self.op("Gather", [x, self._constant("last", torch.tensor([-1]))], {"axis": 1})
        head = self._constant("lm_head.weight", self.parameters["wte.weight"].T)
        logits = _value("logits", _FLOAT, ["batch", 1, self.config.vocab_size])
        return self.op("MatMul", [self._norm("ln_f", last), head], output=logits)

    def _norm(self, name: str, x: onnx_ir.Value) -> onnx_ir.Value:
        gain_and_bias = [self._parameter(f"{name}.weight"), self._parameter(f"{name}.bias")]
        return self.op(
            "LayerNormalization", [x, *gain_and_bias], {"epsilon": self.config.layer_norm_epsilon}
        )

    def _linear(self, name: str, x: onnx_ir.Value) -> onnx_ir.Value:
        weight = self._constant(f"{name}.weight", self.parameters[f"{name}.weight"].T)
        return self.op("Add", [self.op("MatMul", [x, weight]), self._parameter(f"{name}.bias")])

    def _parameter(self, name: str) -> onnx_ir.Value:
        return self._constant(name, self.parameters[name])

    def _constant(self, name: str, value: Tensor) -> onnx_ir.Value:
        return self.tape.initializer(onnx_ir.tensor(value.contiguous().numpy(), name=name))


def _value(name: str, dtype: onnx_ir.DataType, shape: list[str | int]) -> onnx_ir.Value:
    return onnx_ir.Value(name=name, shape=onnx_ir.Shape(shape), type=onnx_ir.TensorType(dtype))
