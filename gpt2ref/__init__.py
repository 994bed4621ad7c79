"""A minimal GPT-2: the model, its weights, its sampler.

>>> from gpt2ref import generate
>>> print(generate("Once upon a time", max_new_tokens=50, temperature=0.8, top_k=40, seed=0))

To read in this order: `config`, `model`, `conversion`, `sampling`, `decoding`, `generation`. Around them: `tokenizer`; for
files `checkpoint`, with `pickled`, `tensorflow_checkpoint`, `hub` and `saving`; for speed `linear`, `compiled` and `captured`.
"""

from .checkpoint.hugging_face import from_hugging_face
from .checkpoint.load import load_checkpoint
from .checkpoint.save import save_checkpoint
from .config import EOS, PUBLISHED_CONFIGS, GPT2Config
from .conversion import CheckpointError, from_tensors
from .fast.compiled_step import compile_step
from .generation import generate, sample, stream
from .model import GPT2, KVCache
from .tokenizer import decode, encode

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
