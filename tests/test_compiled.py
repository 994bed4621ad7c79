"""The products in C, where they are asked for: right to rounding, and nothing else changes."""

import itertools
import shutil

import pytest
import torch

from conformance import textbook
from gpt2ref import compile_products, compiled, load_checkpoint, sample
from gpt2ref.compiled import row_by_matrix
from gpt2ref.linear import linear
from tests.test_linear import assert_product, normal

SHAPES = [(1, 1), (3, 5), (33, 48), (48, 33), (7, 16), (64, 15), (5, 1000), (1000, 5), (768, 3072)]


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """No test leaves the products compiled."""
    monkeypatch.setattr(compiled, "library", None)


@pytest.fixture
def in_c():
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    compile_products()


def stored(n_out, n_in, order):
    return normal(n_out, n_in, seed=1) if order == "out, in" else normal(n_in, n_out, seed=1).t()


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("order", ["out, in", "in, out"])
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_it_is_the_product_in_either_storage_order(n_out, n_in, order, n_threads):
    weight = stored(n_out, n_in, order)
    torch.set_num_threads(n_threads)
    for shape, bias in itertools.product([(n_in,), (1, n_in), (1, 1, n_in)], [None, normal(n_out, seed=2)]):
        x = normal(*shape)
        y = row_by_matrix(x, weight, bias)
        assert y.shape == (*shape[:-1], n_out)
        assert_product(y, x, weight, bias)
        assert torch.equal(linear(x, weight, bias), y)


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize("order", ["out, in", "in, out"])
def test_numbers_that_are_none_come_through(order):
    weight, x = stored(40, 20, order), normal(1, 20)
    weight[7, 3], weight[8, 4] = float("nan"), float("inf")
    y = row_by_matrix(x, weight, None)[0]
    assert y.isnan().nonzero().tolist() == [[7]]
    assert y.isinf().nonzero().tolist() == [[8]]


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (normal(2, 8), normal(3, 8), None),
        (normal(1, 8, dtype=torch.float64), normal(3, 8, dtype=torch.float64), None),
        (normal(1, 8, dtype=torch.bfloat16), normal(3, 8, dtype=torch.bfloat16), None),
        (normal(1, 16)[:, ::2], normal(3, 8), None),
        (normal(1, 8), normal(6, 16)[::2, ::2], None),
        (normal(1, 8), normal(3, 8), normal(6)[::2]),
        (normal(1, 8), normal(3, 8), normal(3, dtype=torch.float64)),
        (normal(1, 8), normal(3, 8), normal(2)),
        (normal(1, 7), normal(3, 8), None),
        (normal(1, 8, dtype=torch.float64), normal(3, 8), None),
        (normal(1, 8).to("meta"), normal(3, 8), None),
        (normal(1, 0), normal(3, 8), None),
    ],
    ids=str,
)
def test_what_it_is_not_made_for_is_left_to_others(x, weight, bias):
    assert row_by_matrix(x, weight, bias) is None


@pytest.mark.usefixtures("in_c")
def test_gradients_go_past_it():
    x = normal(1, 8).requires_grad_()
    linear(x, normal(3, 8)).sum().backward()
    assert x.grad is not None


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize(("temperature", "top_k"), [(0, None), (1.0, None), (0.7, 5)])
def test_tokens_are_those_of_the_textbooks_loop(tiny_folder, monkeypatch, temperature, top_k):
    """Whose products have many rows; the first step's, of one token, has one."""
    model = load_checkpoint(tiny_folder)
    calls = []
    monkeypatch.setattr("gpt2ref.linear.row_by_matrix", lambda *operands: calls.append(1) or row_by_matrix(*operands))
    options = {"max_new_tokens": 9, "temperature": temperature, "top_k": top_k, "seed": 3, "eos_token_id": None}
    (new,) = sample(model, [[1, 2, 3]], **options)
    assert calls
    assert [new] == [textbook.generate(model, [1, 2, 3], n_positions=model.config.n_positions, **options)]


def test_it_is_not_used_unasked():
    assert row_by_matrix(normal(1, 8), normal(3, 8), None) is None


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler -m64", r"^no-such-compiler -m64 -O3 .*row_by_matrix\.c\n.*No such file"),
        ("false", r"^false -O3 .*row_by_matrix\.c\n"),
        ("true", r"^true -O3 .*\n.*row_by_matrix\.so"),  # writes no library
    ],
)
def test_without_a_compiler_it_says_so_and_nothing_changes(monkeypatch, compiler, message):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(RuntimeError, match=message):
        compile_products()
    assert compiled.library is None


@pytest.mark.usefixtures("in_c")
def test_the_compilers_own_words_are_in_the_error(monkeypatch, tmp_path):
    broken = tmp_path / "row_by_matrix.c"
    broken.write_text("int main(void) { return nothing; }")
    monkeypatch.setattr(compiled, "_SOURCE", broken)
    with pytest.raises(RuntimeError, match=r"(?s)^cc .*row_by_matrix\.c\n.*nothing"):
        compile_products()
    assert compiled.library is not None  # what was there goes on


def test_nothing_is_left_on_disk(monkeypatch, tmp_path):
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compile_products()
    assert list(tmp_path.iterdir()) == []
