"""The implementations that are measured. All load the same checkpoint, are called in the same way,
and compute in the same dtype on as many threads.

Any other GPT-2 is given by its adapter (`adapter.py`). To add one by a name, write a class with the
methods of `protocol.Implementation`, and add it to IMPLEMENTATIONS.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from .protocol import Implementation, RefusedError, TokenIds

__all__ = [
    "DEFAULT",
    "IMPLEMENTATIONS",
    "Implementation",
    "RefusedError",
    "TokenIds",
    "implementation_class",
    "missing_package",
]

# Name -> module of this package, and class in it. It is imported when needed, as not every package
# is installed everywhere.
IMPLEMENTATIONS = {
    "gpt2ref": ("gpt2ref", "Reference"),
    "gpt2ref-compiled": ("gpt2ref", "Compiled"),
    "gpt2ref-textbook": ("gpt2ref", "Textbook"),
    "huggingface": ("huggingface", "HuggingFace"),
    "huggingface-static": ("huggingface", "HuggingFaceStatic"),
    "ctranslate2": ("ctranslate2", "CTranslate2"),
    "llama.cpp": ("llama_cpp", "LlamaCpp"),
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
    "openvino": ("openvino", "OpenVino"),
}
DEFAULT = ("gpt2ref", "huggingface")

# Name -> module -> package to install, beside those that the benchmarks need anyway.
_PACKAGES = {
    "ctranslate2": {"ctranslate2": "ctranslate2"},
    "llama.cpp": {"llama_cpp": "llama-cpp-python", "gguf": "gguf"},
    "onnxruntime": {"onnxruntime_genai": "onnxruntime-genai", "onnx_ir": "onnx-ir"},
    "openvino": {"openvino_genai": "openvino-genai"},
}


def missing_package(name: str) -> str | None:
    """Return the packages that the implementation lacks. None if it lacks none."""
    missing = [
        package for module, package in _PACKAGES.get(name, {}).items() if find_spec(module) is None
    ]
    return " ".join(missing) or None


def implementation_class(name: str) -> type[Implementation]:
    """Return the class of a name, or of an adapter. Raises pytest.UsageError if there is none."""
    if name not in IMPLEMENTATIONS:
        from .adapter import adapter_class

        return adapter_class(name)
    module, attribute = IMPLEMENTATIONS[name]
    return getattr(import_module(f".{module}", __name__), attribute)
