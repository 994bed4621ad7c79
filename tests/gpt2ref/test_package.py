import importlib.metadata
import inspect
import json
import pkgutil
import subprocess
import sys
from importlib.resources import files

import pytest

import gpt2ref


def test_the_import_loads_nothing_heavy_but_torch_and_does_not_warn():
    code = "import gpt2ref, json, sys; print(json.dumps([*sys.modules]))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    imported = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert {"torch", "safetensors", "tiktoken", "gpt2ref"} <= imported
    assert not imported & {
        "transformers",
        "huggingface_hub",
        "tokenizers",
        "pytest",
        "hypothesis",
        "conformance",
        "sympy",
    }
    assert result.stderr == ""


def test_the_public_names():
    assert sorted(gpt2ref.__all__) == [
        "CheckpointError",
        "EOS",
        "GPT2",
        "GPT2Config",
        "KVCache",
        "PUBLISHED_CONFIGS",
        "compile_step",
        "decode",
        "encode",
        "from_hugging_face",
        "from_tensors",
        "generate",
        "load_checkpoint",
        "sample",
        "save_checkpoint",
        "stream",
    ]
    assert set(gpt2ref.__all__) <= set(vars(gpt2ref))


def test_no_module_hides_a_public_function():
    modules = {module.name for module in pkgutil.iter_modules(gpt2ref.__path__)}
    assert "generation" in modules
    assert not modules & set(gpt2ref.__all__)


def public_functions():
    for module in pkgutil.iter_modules(gpt2ref.__path__):
        if module.name == "__main__":  # it runs
            continue
        members = vars(importlib.import_module(f"gpt2ref.{module.name}"))
        for name, member in members.items():
            if (
                inspect.isfunction(member)
                and member.__module__ == f"gpt2ref.{module.name}"
                and not name.startswith("_")
            ):
                yield pytest.param(member, id=f"{module.name}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_every_public_function_has_a_docstring(function):
    assert inspect.getdoc(function)


@pytest.mark.parametrize(
    "name", [name for name in gpt2ref.__all__ if inspect.isclass(getattr(gpt2ref, name))]
)
def test_every_public_class_has_a_docstring(name):
    docstring = vars(getattr(gpt2ref, name))["__doc__"]
    assert docstring.count(" ") > 5
    # A dataclass without a docstring gets its signature as one.
    assert not docstring.startswith(f"{name}(")


def test_the_version_is_the_distributions():
    assert gpt2ref.__version__ == importlib.metadata.version("gpt2ref")


@pytest.mark.parametrize("name", ["py.typed", "data/vocab.bpe", "data/LICENSE-openai"])
def test_the_package_contains_its_data_files(name):
    assert files("gpt2ref").joinpath(name).is_file()
