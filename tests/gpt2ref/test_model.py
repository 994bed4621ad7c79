import copy
import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from gpt2ref import GPT2, GPT2Config, KVCache
from gpt2ref.generation import prefill


def exact(actual, expected):
    """Compare up to the rounding of float64, since the order of sums may differ."""
    assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


@pytest.mark.parametrize(
    "cuts", [cuts for n in range(6) for cuts in itertools.combinations(range(1, 6), n)], ids=str
)
def test_pieces_of_a_sequence_give_the_logits_of_the_whole(tiny, token_ids, cuts):
    cache = tiny.make_cache(batch=2)
    pieces = torch.tensor_split(token_ids, cuts, dim=1)
    exact(torch.cat([tiny(piece, cache) for piece in pieces], dim=1), tiny(token_ids))
    assert cache.lengths == [6, 6]


@pytest.mark.parametrize("lengths", [[0, 0], [3, 3], [0, 3]], ids=str)
@pytest.mark.parametrize("time", [1, 4])
def test_attention_never_stores_every_score(tiny, lengths, time):
    """Torch's attention that stores every score takes 1.7 times as long for 960 tokens."""
    cache = tiny.make_cache(batch=2)
    cache.lengths = lengths
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # an error, if it can't be
        assert tiny(torch.ones(2, time, dtype=torch.int64), cache).isfinite().all()


def test_rows_of_a_batch_do_not_see_each_other(tiny, token_ids):
    exact(tiny(token_ids), torch.cat([tiny(row[None]) for row in token_ids]))


def test_a_token_sees_itself_and_earlier_tokens_but_no_later_ones(tiny, token_ids):
    plain = tiny(token_ids)
    for position in range(6):
        changed = token_ids.clone()
        changed[:, position] = 96
        difference = (tiny(changed) - plain).abs().amax(dim=(0, 2))
        assert (difference[:position] == 0).all()
        assert (difference[position:] > 1e-6).all()


def test_rows_of_one_cache_may_differ_in_length(tiny, token_ids):
    cache = tiny.make_cache(batch=2)
    tiny(token_ids[:, :4], cache)
    cache.lengths = [2, 4]  # the first row forgets two tokens
    logits = tiny(torch.tensor([[7, 8], [9, 10]]), cache)
    assert cache.lengths == [4, 6]
    exact(logits[0], tiny(torch.tensor([[3, 1, 7, 8]]))[0, 2:])
    exact(logits[1], tiny(torch.tensor([[2, 6, 5, 3, 9, 10]]))[0, 4:])


def test_lowering_a_length_to_zero_forgets_everything(tiny, token_ids):
    cache = tiny.make_cache(batch=2)
    tiny(torch.full((2, 13), 50), cache)
    cache.lengths = [0, 0]
    exact(tiny(token_ids, cache), tiny(token_ids))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_forgotten_changes_nothing_even_if_it_was_no_number(tiny, token_ids, value):
    model = copy.deepcopy(tiny)
    model.transformer.wpe.weight[6:9] = value
    cache = model.make_cache(batch=2)
    model(torch.full((2, 6), 50), cache)
    assert not model(torch.full((2, 2), 50), cache).isfinite().any()
    cache.lengths = [1, 3]
    logits = model(token_ids[:, :2], cache)
    assert cache.written == [3, 5]
    exact(logits[0], tiny(torch.tensor([[50, 3, 1]]))[0, 1:])
    exact(logits[1], tiny(torch.tensor([[50, 50, 50, 2, 6]]))[0, 3:])


def test_padding_leaves_nothing_behind_a_short_row(tiny):
    cache = tiny.make_cache(batch=2)
    prefill(tiny, [[1, 2], [1, 2, 3, 4, 5]], cache)
    assert cache.lengths == cache.written == [2, 5]
    assert cache.keys[:, 0, :2].all()
    assert not cache.keys[:, 0, 2:].any()
    assert not cache.values[:, 0, 2:].any()


def test_a_cache_holds_exactly_its_capacity(tiny, token_ids):
    cache = tiny.make_cache(batch=2, capacity=6)
    assert cache.capacity == 6
    exact(tiny(token_ids, cache), tiny(token_ids))
    with pytest.raises(
        ValueError, match=r"^token_ids: 1 tokens after 6, but there are 6 positions"
    ):
        tiny(token_ids[:, :1], cache)


def test_a_cache_has_room_for_every_position_by_default(tiny):
    assert tiny.make_cache(batch=1).capacity == tiny.config.n_positions
    assert tiny(torch.zeros(1, 13, dtype=torch.int64), tiny.make_cache(1)).shape == (1, 13, 97)


@pytest.mark.parametrize("capacity", [0, -1, 14])
def test_a_capacity_below_one_or_above_n_positions_is_refused(tiny, capacity):
    with pytest.raises(ValueError, match=rf"^capacity={capacity}: expected 1 to n_positions=13"):
        KVCache(tiny.config, batch=1, capacity=capacity)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 11), "^token_ids: 11 tokens after 3, but there are 13 positions"),
        ((3, 1), "^token_ids: 3 rows, but the cache was made for 2"),
        ((1, 1), "^token_ids: 1 rows, but the cache was made for 2"),
        ((2,), r"^token_ids: shape \[2\], expected \[batch, time\]"),
        ((2, 1, 1), r"^token_ids: shape \[2, 1, 1\], expected \[batch, time\]"),
        ((2, 0), r"^token_ids: shape \[2, 0\], expected \[batch, time\], both at least 1"),
        ((0, 2), r"^token_ids: shape \[0, 2\], expected \[batch, time\], both at least 1"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_and_leave_the_cache_as_it_was(
    tiny, token_ids, shape, message
):
    cache = tiny.make_cache(batch=2)
    tiny(token_ids[:, :2], cache)
    cache.lengths = [2, 3]  # the longest row counts
    before = copy.deepcopy(cache)
    with pytest.raises(ValueError, match=message):
        tiny(torch.zeros(shape, dtype=torch.int64), cache)
    assert cache.lengths == before.lengths
    assert torch.equal(cache.keys, before.keys)
    assert torch.equal(cache.values, before.values)


def test_a_text_longer_than_the_context_is_refused(tiny):
    assert tiny(torch.zeros(1, 13, dtype=torch.int64)).isfinite().all()
    with pytest.raises(
        ValueError, match=r"^token_ids: 14 tokens after 0, but there are 13 positions"
    ):
        tiny(torch.zeros(1, 14, dtype=torch.int64))


def test_ids_may_be_int32(tiny, token_ids):
    assert torch.equal(tiny(token_ids.int()), tiny(token_ids))


def test_a_deep_copy_has_weights_of_its_own(tiny, token_ids):
    before = tiny(token_ids)
    other = copy.deepcopy(tiny)
    for parameter in other.parameters():
        parameter.zero_()
    assert torch.equal(tiny(token_ids), before)
    assert not other(token_ids).any()


def test_the_head_is_the_token_embedding(tiny, token_ids):
    model = copy.deepcopy(tiny)
    model.transformer.wte.weight[96] += 1  # a token that is not in the input
    difference = (model(token_ids) - tiny(token_ids)).abs().amax(dim=(0, 1))
    assert difference[96] > 0
    assert not difference[:96].any()
    assert not [name for name, _ in model.named_parameters() if "head" in name]


def test_a_cache_is_made_where_the_weights_are_and_in_their_dtype(tiny):
    with torch.device("meta"):
        elsewhere = GPT2(tiny.config).to(torch.bfloat16)
    for model in (tiny, elsewhere):
        cache = model.make_cache(batch=3, capacity=5)
        assert (cache.keys.device, cache.keys.dtype) == (model.device, model.dtype)
        assert cache.keys.shape == cache.values.shape == (2, 3, 5, 3, 8)
        assert cache.lengths == [0, 0, 0]


def test_a_model_made_directly_runs():
    model = GPT2(GPT2Config(vocab_size=5, n_positions=3, n_embd=4, n_layer=1, n_head=2, n_inner=3))
    logits = model(torch.tensor([[0, 4]]))
    assert logits.shape == (1, 2, 5)
    assert logits.isfinite().all()
    assert logits.requires_grad
