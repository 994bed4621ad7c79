"""Without `compile_step`, or without a C compiler. These tests need no compiler."""

import pytest

from gpt2ref import compile_step, load_checkpoint, sample
from gpt2ref.fast.compiled_step import CompiledStep, compiled_step
from gpt2ref.fast.library import library


def test_the_step_is_not_compiled_unless_requested(monkeypatch, tiny_folder):
    monkeypatch.setattr(CompiledStep, "__init__", lambda *_: pytest.fail("nobody requested it"))
    assert sample(load_checkpoint(tiny_folder), [[1]], max_new_tokens=3, seed=0, eos_token_id=None)


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler -m64", r"^no-such-compiler -m64 -O3 .*step\.c -lm\n.*No such file"),
        ("false", r"^false -O3 .*step\.c -lm\n"),
        ("true", r"^true -O3 .*\n.*step\.so"),  # writes no library
    ],
)
def test_without_a_compiler_the_error_has_the_command(monkeypatch, tiny_folder, compiler, message):
    library.cache_clear()
    monkeypatch.setenv("CC", compiler)
    model = load_checkpoint(tiny_folder)
    with pytest.raises(RuntimeError, match=message):
        compile_step(model)
    assert compiled_step(model, model.make_cache(1)) is None
