"""Where nobody asked for the compiled step, and where there is nothing to compile it with. These need no compiler."""

import pytest

from gpt2ref import compile_step, load_checkpoint, sample
from gpt2ref.fast import compiled_step as compiled
from gpt2ref.fast.compiled_step import CompiledStep


def test_it_is_not_used_unasked(monkeypatch, tiny_folder):
    monkeypatch.setattr(compiled, "libraries", {})
    monkeypatch.setattr(CompiledStep, "__init__", lambda *_: pytest.fail("nobody asked"))
    assert sample(load_checkpoint(tiny_folder), [[1]], max_new_tokens=3, seed=0, eos_token_id=None)


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler -m64", r"^no-such-compiler -m64 -O3 .*step\.c -lm\n.*No such file"),
        ("false", r"^false -O3 .*step\.c -lm\n"),
        ("true", r"^true -O3 .*\n.*step\.so"),  # writes no library
    ],
)
def test_without_a_compiler_it_says_so_and_nothing_changes(monkeypatch, compiler, message):
    monkeypatch.setattr(compiled, "libraries", {})
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(RuntimeError, match=message):
        compile_step()
    assert not compiled.libraries
