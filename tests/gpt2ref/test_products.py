"""Products on the CPU: the ways are right, the fastest is taken, and it changes no result."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from conformance.checkpoints.tensors import trained_like, write_checkpoint
from gpt2ref import GPT2Config, from_tensors, load_checkpoint, sample
from gpt2ref.fast import products
from tests.shared.blocks import block

# The blocks' matrices are large enough for a choice, and the vocabulary is an odd number.
CONFIG = GPT2Config(vocab_size=523, n_positions=64, n_embd=256, n_layer=1, n_head=4)
HALF = (torch.bfloat16, torch.float16)
ORDERS = ("in_out", "out_in")


@pytest.fixture(autouse=True)
def nothing_is_chosen(monkeypatch):
    monkeypatch.setattr(products, "_choices", {})
    monkeypatch.setattr(products, "_used", None)
    for name in ("TIMED", "LEAST_TIMED"):
        monkeypatch.setattr(products, name, 0)  # one product by a weight is a turn


@pytest.fixture
def clock(monkeypatch):
    """Return a function that lets a way take a time by the clock of `products`, in seconds."""
    now = 0.0

    def take(way: str, seconds: float) -> None:
        original = products.WAYS[way]

        def slow(*args: Any) -> torch.Tensor:
            nonlocal now
            now += seconds
            return original(*args)

        monkeypatch.setitem(products.WAYS, way, slow)

    monkeypatch.setattr(products, "perf_counter", lambda: now)
    return take


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def stored(weight: torch.Tensor, order: str) -> torch.Tensor:
    return weight if order == "out_in" else weight.t().contiguous().t()


def model_in(dtype: torch.dtype):
    return from_tensors(trained_like(CONFIG, seed=0), CONFIG, dtype=dtype)


def is_right(way: str, x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return whether a product is as near to the exact one as rounding allows."""
    exact, terms = (a.double() @ b.double().t() for a, b in ((x, weight), (x.abs(), weight.abs())))
    allowed = x.size(-1) * torch.finfo(torch.float32).eps * terms
    allowed += torch.finfo(x.dtype).eps * exact.abs()
    return bool(((products.WAYS[way](x, weight, None) - exact).abs() <= allowed).all())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_each_way_is_right_for_any_number_of_rows(dtype, order):
    weight = stored(numbers(523, 256, dtype=dtype), order)
    for n_rows in (1, 2, 7, 8, 33, 64, 65, 200):
        for way in products.possible(dtype):
            assert is_right(way, numbers(n_rows, 256, dtype=dtype), weight), (way, n_rows)


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("dtype", HALF)
def test_a_large_weight_is_converted_part_by_part(dtype, has_onednn, monkeypatch):
    if has_onednn and not products.has_onednn():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "has_onednn", lambda: has_onednn)
    x, weight, bias = (numbers(*shape, dtype=dtype) for shape in ((2, 3, 256), (523, 256), (523,)))
    whole = products.in_float32(x, weight, bias)
    assert whole.shape == (2, 3, 523)
    sizes: list[int] = []
    where, name = (products, "by_onednn") if has_onednn else (F, "linear")
    multiply = getattr(where, name)

    def noted(x: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        sizes.append(len(weight))
        return multiply(x, weight, *bias)

    monkeypatch.setattr(products, "CONVERTED", 100 * 256)
    monkeypatch.setattr(where, name, noted)
    assert torch.equal(products.in_float32(x, weight, bias), whole)
    assert sizes == [100] * 5 + [23]


@pytest.mark.parametrize(
    ("seconds", "way"), [(0.1, "onednn"), (0.89, "onednn"), (0.91, "torch"), (5.0, "torch")]
)
def test_a_way_that_is_clearly_faster_is_taken_and_kept(clock, seconds, way):
    clock("torch", 1.0)
    clock("onednn", seconds)
    weight = numbers(523, 256)
    choice = products.choice(1, weight)
    assert choice.way == way
    assert choice.seconds == pytest.approx({"torch": 1.0, "onednn": seconds})
    clock("torch", 1000.0)
    assert products.choice(1, weight) is choice
    assert list(products.choices().values()) == [choice]


def test_a_first_call_which_loads_a_library_is_not_timed(clock, monkeypatch):
    clock("torch", 1.0)
    clock("onednn", 0.1)
    quick = products.WAYS["onednn"]
    clock("onednn", 100.0)
    calls = iter([products.WAYS["onednn"]])
    monkeypatch.setitem(products.WAYS, "onednn", lambda *given: next(calls, quick)(*given))
    assert products.choice(1, numbers(523, 256)).way == "onednn"


def test_few_rows_and_many_are_chosen_for_by_themselves(clock):
    clock("torch", 1.0)
    clock("onednn", 2.0)
    weight = numbers(523, 256)
    assert products.choice(3, weight).way == "torch"
    clock("torch", 9.0)
    assert products.choice(4, weight).way == "torch"
    assert products.choice(5, weight).way == "onednn"
    assert products.choice(256, weight) is products.choice(1000, weight)
    assert [case.rows for case in products.choices()] == [4, 8, 256]


@pytest.mark.parametrize("order", ORDERS)
def test_ways_are_timed_on_weights_stored_without_gaps_as_the_models_are(order):
    weight = stored(numbers(523, 256), order)
    for n, size in ((200 * 256, 1), (523 * 256, 1), (3 * 523 * 256, 3)):
        timed = products._timed_weights(weight, n)
        assert len(timed) == size
        for each in timed:
            whole = each.t() if order == "in_out" else each
            assert whole.is_contiguous()
            assert abs(whole.numel() - min(n, weight.numel())) < max(weight.shape)
            assert torch.equal(each, weight[: each.size(0), : each.size(1)])


def test_a_way_that_this_torch_does_not_have_is_not_taken(monkeypatch):
    def absent(*_: Any) -> None:
        raise NotImplementedError("no such operator")

    monkeypatch.setitem(products.WAYS, "onednn", absent)
    assert products.choice(8, numbers(523, 256)).way == "torch"


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_a_way_that_is_wrong_is_not_taken_however_fast_it_is(clock, monkeypatch, wrong):
    monkeypatch.setitem(products.WAYS, "onednn", lambda *args: wrong * F.linear(*args))
    monkeypatch.setattr(products, "possible", lambda *_: ("torch", "onednn"))
    clock("torch", 1.0)
    choice = products.choice(8, numbers(523, 256))
    assert choice.seconds["onednn"] == 0
    assert choice.way == "torch"


@pytest.mark.parametrize("way", ["torch", "float32"])
@pytest.mark.parametrize("dtype", HALF)
def test_the_way_that_is_used_computes_the_products_of_a_model(dtype, way, monkeypatch):
    model, called = model_in(dtype), list[str]()

    def noted(name: str) -> products.Product:
        multiply = products.WAYS[name]

        def note(*args: Any) -> torch.Tensor:
            called.append(name)
            return multiply(*args)

        return note

    for name in list(products.WAYS):
        monkeypatch.setitem(products.WAYS, name, noted(name))
    products.use(way)
    model(torch.arange(5)[None])
    assert called == [way] * 5  # four matrices and the head
    assert not products.choices()


def test_a_way_that_does_not_suit_a_product_is_not_used():
    products.use("float32")
    x, weight = numbers(3, 256), numbers(523, 256)
    assert torch.equal(products.linear(x, weight), F.linear(x, weight))


def test_a_way_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^way='mkl': expected torch, onednn, float32 or None$"):
        products.use("mkl")


@pytest.mark.parametrize("way", products.WAYS)
def test_a_seed_gives_the_same_tokens_in_each_way(way):
    model = model_in(torch.float32)
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0.9, "top_k": 40, "seed": 3}
    expected = sample(model, [[1, 2, 3], [5]], eos_token_id=None, **options)
    products.use(way)
    assert sample(model, [[1, 2, 3], [5]], eos_token_id=None, **options) == expected


def test_gradients_autocast_compilers_and_small_matrices_get_torchs_own(monkeypatch):
    monkeypatch.setattr(products, "choice", lambda *_: pytest.fail("there is nothing to choose"))
    x, weight = numbers(3, 256, dtype=torch.bfloat16), numbers(523, 256, dtype=torch.bfloat16)
    small = weight[: products.SMALL // 256 - 1]
    assert torch.equal(products.linear(x, small), F.linear(x, small))
    assert products.linear(x, weight.requires_grad_()).requires_grad
    weight = weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x.float(), weight.float()).dtype == torch.bfloat16
    assert products.linear(x.to("meta"), weight.to("meta")).is_meta
    assert products.linear(x.double(), weight.double()).dtype == torch.float64
    assert products.linear(x[:0], weight).shape == (0, 523)
    for gaps in (weight[:, :255], weight[::2], stored(weight, "in_out")[:512]):
        x = numbers(3, gaps.size(1), dtype=torch.bfloat16)
        assert torch.equal(products.linear(x, gaps), F.linear(x, gaps))
    compiled = torch.compile(products.linear, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, weight), F.linear(x, weight))


def layers(model):
    attn, mlp = block(model, 0).attn, block(model, 0).mlp
    return [attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj]


@pytest.fixture
def checkpoint(tmp_path):
    write_checkpoint(tmp_path, CONFIG, trained_like(CONFIG, seed=0))
    return tmp_path


@pytest.mark.parametrize(
    ("dtype", "order"),
    [(torch.float32, "in_out"), (torch.bfloat16, "out_in"), (torch.float16, "out_in")],
)
def test_a_loaded_model_is_stored_out_in_if_it_is_in_half_precision(checkpoint, dtype, order):
    expected = model_in(dtype).state_dict()
    model = load_checkpoint(checkpoint, dtype=dtype)
    assert [products.order_of(layer.weight) for layer in layers(model)] == [order] * 4
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_computed_in_float32_where_instructions_are_lacking(clock, dtype):
    """Its way depends on no small difference of times: another rounding gives other tokens."""
    weight = numbers(523, 256, dtype=dtype)
    for seconds, ways in ((3.9, ["torch"] * 4), (4.1, ["torch", "float32", "float32", "float32"])):
        products._choices.clear()
        products.half_seconds.cache_clear()
        products.WAYS.update(torch=F.linear, float32=products.in_float32)
        clock("torch", seconds)
        clock("float32", 1.0)
        found = [
            products.choice(n_rows, stored(weight, order)).way
            for n_rows, order in ((4, "out_in"), (5, "out_in"), (1, "in_out"), (64, "in_out"))
        ]
        assert found == ways
    products.half_seconds.cache_clear()


def test_half_precision_is_torchs_where_float32_is_wrong(clock, monkeypatch):
    products.half_seconds.cache_clear()
    monkeypatch.setitem(products.WAYS, "float32", lambda *args: 1.1 * F.linear(*args))
    clock("torch", 100.0)
    clock("float32", 1.0)
    assert products.choice(64, numbers(523, 256, dtype=torch.float16)).way == "torch"
    products.half_seconds.cache_clear()


def test_tensors_that_somebody_else_holds_are_not_stored_anew():
    tensors = {key: tensor.half() for key, tensor in trained_like(CONFIG, seed=0).items()}
    model = from_tensors(tensors, CONFIG)
    assert layers(model)[0].weight.data_ptr() == tensors["h.0.attn.c_attn.weight"].data_ptr()


def test_the_choices_are_made_by_one_of_several_threads(clock):
    clock("torch", 1.0)
    weights = [numbers(523, n) for n in (256, 512) * 8]
    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(lambda weight: products.choice(1, weight), weights))
    assert len({id(choice) for choice in chosen}) == len(products.choices()) == 2
