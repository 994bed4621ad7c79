"""A minimal GPT-2: the model, its weights, its sampler.

>>> from gpt2ref import generate
>>> print(generate("Once upon a time", max_new_tokens=50, temperature=0.8, top_k=40, seed=0))

Read the core in this order: `config`, `model`, `conversion`, `sampling`, `generation`. Beside it,
`arguments` checks what callers pass, `devices` knows devices and threads, and `wrappers` what
training code adds to names. The core works without the rest: `tokenizer`, `text` and `cli`;
`checkpoint` for files; `fast` for speed alone.
"""

from importlib.util import find_spec

from . import generation, model
from .config import EOS, PUBLISHED_CONFIGS, GPT2Config
from .conversion import CheckpointError, from_tensors
from .devices import limit_threads
from .generation import sample
from .model import GPT2, KVCache
from .tokenizer import decode, encode

limit_threads()
if find_spec(f"{__name__}.checkpoint"):
    from .checkpoint.hugging_face import from_hugging_face
    from .checkpoint.load import load_checkpoint
    from .checkpoint.save import save_checkpoint
    from .text import generate, stream
if find_spec(f"{__name__}.fast"):
    from .fast import linear, make_steps
    from .fast.compiled_step import compile_step

    generation.make_steps = make_steps
    model.linear = linear

__version__ = "0.1.0"

__all__ = [
    "EOS",
    "GPT2",
    "PUBLISHED_CONFIGS",
    "CheckpointError",
    "GPT2Config",
    "KVCache",
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
