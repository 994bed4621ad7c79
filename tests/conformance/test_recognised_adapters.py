"""How a recognised GPT-2 generates, its own loading code, and the adapters that are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conformance.adapters.adapter import Adapter
from conformance.adapters.recognised.recognise import NotRecognisedError
from conformance.adapters.recognised.written import Found, text
from conformance.checkpoints.scripts import SCRIPT, by_position
from conformance.checkpoints.tensors import write_checkpoint
from conformance.outcomes import Failure
from gpt2ref import EOS
from tests.shared.judging import judge, section
from tests.shared.model_files import NANO, SEPARATE, encoder
from tests.shared.recognising import (
    TINY,
    TOKEN_IDS,
    check_right,
    found_in,
    loaded,
)

SAYS = [11, 262, 1135, EOS, 13]  # after a prompt of one token


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint that says one word after the other, whatever it is given."""
    tensors = by_position(SAYS + [13] * (SCRIPT.n_positions - len(SAYS)))
    return str(write_checkpoint(tmp_path_factory.mktemp("script"), SCRIPT, tensors))


# Generation.

LOOP = """
def METHOD(self, idx, max_tokens, temperature=1.0, do_sample=False, top_k=None, eos_id=None):
    new = []
    for _ in range(max_tokens):
        logits = self(torch.cat([idx, *new], 1))[:, -1] / temperature
        likely = logits.topk(top_k or 9).values[:, -1:]
        chances = logits.masked_fill(logits < likely, -torch.inf).softmax(-1)
        new.append(torch.multinomial(chances, 1) if do_sample else chances.argmax(-1, keepdim=True))
        if eos_id is not None and bool((new[-1] == eos_id).all()):
            break
    return torch.cat(new, 1)
"""
GREEDY = {"max_new_tokens": 5, "temperature": 0.0}


def test_a_generate_that_draws_without_an_end(found: Callable[..., Found], script: str) -> None:
    mine = loaded(found(NANO), script)
    prompt = torch.tensor([[198]])
    assert mine.generate(prompt, max_new_tokens=3, top_k=1) == [SAYS[:3]]
    with pytest.raises(NotImplementedError, match="divides by the temperature"):
        mine.generate(prompt, **GREEDY)
    with pytest.raises(NotImplementedError, match="does not end at EOS"):
        mine.generate(prompt, max_new_tokens=5, top_k=1)


def test_a_generate_that_ends_and_returns_new_ids(found: Callable[..., Found], script: str) -> None:
    result = found(encoder(methods=LOOP.replace("METHOD", "generate")))
    assert result.said.endswith("generate()")
    assert loaded(result, script).generate(torch.tensor([[198], [7]]), **GREEDY) == [SAYS[:3]] * 2


def test_a_seed_gives_the_same_tokens_and_the_global_generator_stays(
    found: Callable[..., Found], checkpoint: str
) -> None:
    mine, before = loaded(found(NANO), checkpoint), torch.get_rng_state()
    one, same, other = (
        mine.generate(TOKEN_IDS, max_new_tokens=6, temperature=5.0, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other
    assert torch.equal(before, torch.get_rng_state())


def test_a_function_that_takes_the_model_one_row_at_a_time(
    found: Callable[..., Found], script: str
) -> None:
    function = """
def sample_text(model, ids, steps, ctx_len, temperature=0.0, k=None, eos_id=None):
    for _ in range(steps):
        logits = model(ids[:, -ctx_len:])[:, -1]
        if temperature > 0:
            raise ValueError("temperature above 0 is refused")
        token = logits.argmax(-1, keepdim=True)
        if token == eos_id:
            break
        ids = torch.cat([ids, token], 1)
    return ids
"""
    result = found(encoder() + function.replace("temperature > 0", "temperature > 5"))
    assert "sample_text() (one row at a time)" in result.said
    assert loaded(result, script).generate(torch.tensor([[198], [7]]), **GREEDY) == [SAYS[:3]] * 2


def test_a_greedy_function_has_temperature_0_alone(
    found: Callable[..., Found], script: str
) -> None:
    result = found(SEPARATE)
    assert "generate_simple() (temperature 0 alone, no top_k, does not end at EOS)" in result.said
    mine, prompt = loaded(result, script), torch.tensor([[198]])
    assert mine.generate(prompt, **GREEDY | {"max_new_tokens": 3}) == [SAYS[:3]]
    with pytest.raises(NotImplementedError, match="temperature 0 alone"):
        mine.generate(prompt, max_new_tokens=1)
    with pytest.raises(NotImplementedError, match="no top_k"):
        mine.generate(prompt, max_new_tokens=1, temperature=0.0, top_k=3)


def test_a_generate_of_unknown_arguments_is_left_out(found: Callable[..., Found]) -> None:
    result = found(encoder(methods="def generate(self, prompt, beams): return prompt"))
    assert result.said.endswith("no generate()")


# The author's own loading code.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A file whose from_pretrained knows the published shape alone, for which a tiny one stands."""
    for place in ("conformance", "gpt2ref_conformance"):
        for module in ("recognise", "filling"):
            name = f"{place}.adapters.recognised.{module}.PUBLISHED_CONFIGS"
            monkeypatch.setattr(name, {"gpt2": TINY})
    return NANO.replace("(12, 12, 768)", "(2, 3, 24)").replace("GPTConfig(1024", "GPTConfig(13")


def test_it_is_judged_in_the_published_shape(small: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(small, encoding="utf-8")
    name = f"{tmp_path / 'model.py'}:GPT.from_pretrained"
    run = judge("conformance", "-k", "curve", "--implementation", name)
    # The real one, which the small file refuses.
    assert "published shapes alone (the first checkpoint has n_layer=12, n_embd=768;" in " ".join(
        run.stdout.split()
    )


def test_a_from_pretrained_of_the_published_shapes(
    found: Callable[..., Found], checkpoint: str, small: str
) -> None:
    result = found(small, "GPT.from_pretrained")
    assert result.said.startswith("judging GPT of model.py: by GPT.from_pretrained(), logits from")
    assert not result.any_shape
    check_right(loaded(result, checkpoint), checkpoint)
    wrong = found_in(
        result.source.path.with_name("wrong.py"),
        small.replace(
            '".c_" in name', '"c_a" in name and 0 or ".c_" in name and "attn.c_proj" not in name'
        ),
        "GPT.from_pretrained",
    )
    with pytest.raises(Failure, match="14 of 14 positions are off"):
        check_right(loaded(wrong, checkpoint), checkpoint)


def test_a_from_pretrained_of_any_shape(found: Callable[..., Found], checkpoint: str) -> None:
    """It asks transformers for the config, and for a model by name."""
    methods = """
@classmethod
def from_pretrained(cls, name):
    from transformers import AutoConfig, AutoModelForCausalLM
    c = AutoConfig.from_pretrained(name)
    model = cls(c.vocab_size, c.n_positions, c.n_embd, c.n_layer, c.n_head)
    theirs = AutoModelForCausalLM.from_pretrained(name).transformer
    with torch.no_grad():
        model.token_embedding.weight.copy_(theirs.wte.weight)
    return model
"""
    result = found(encoder(methods=methods), "GPT.from_pretrained")
    assert result.any_shape
    model = loaded(result, checkpoint).model
    right = loaded(found(encoder()), checkpoint).model
    assert torch.equal(model.token_embedding.weight, right.token_embedding.weight)


def test_a_loader_that_fails_is_quoted(found: Callable[..., Found]) -> None:
    methods = """
@classmethod
def from_pretrained(cls, name):
    assert name == "gpt3"
"""
    with pytest.raises(NotRecognisedError, match=r"AssertionError: assert name == \"gpt3\" \(line"):
        found(encoder(methods=methods), "GPT.from_pretrained")


# Written adapters.


def write(*arguments: str) -> str:
    run = judge("conformance", *arguments)
    return run.stdout + run.stderr


def test_a_written_adapter_is_what_is_judged(
    found: Callable[..., Found], tmp_path: Path, checkpoint: str
) -> None:
    result = found(NANO)
    path = tmp_path / "my_adapter.py"
    said = write(f"--implementation={tmp_path / 'model.py'}", f"--write-adapter={path}")
    assert f"Judge it: gpt2-conformance {path}" in said
    written = path.read_text(encoding="utf-8")
    assert written == text(result)
    assert max(map(len, written.splitlines())) <= 100
    adapter = Adapter(str(path), "cpu", torch.float32)
    assert adapter.found is None  # it has a load
    judged = adapter.load(checkpoint)
    torch.testing.assert_close(
        judged.logits(TOKEN_IDS).float(), loaded(result, checkpoint).logits(TOKEN_IDS)
    )
    path.write_text("mine", encoding="utf-8")
    again = write(f"--implementation={tmp_path / 'model.py'}", f"--write-adapter={path}")
    assert "File exists" in again
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_model_may_have_the_name_of_the_adapters_class(
    found: Callable[..., Found], checkpoint: str
) -> None:
    mine = re.sub(r"\bGPT\b", "Mine", NANO)
    check_right(loaded(found(mine), checkpoint), checkpoint)


def test_an_adapter_of_what_does_not_fit_says_what_is_to_be_done(tmp_path: Path) -> None:
    model, path = tmp_path / "model.py", tmp_path / "my_adapter.py"
    model.write_text(NANO.replace("4 * config", "5 * config"), encoding="utf-8")
    said = write(f"--implementation={model}", f"--write-adapter={path}")
    assert "It is not complete, because model.py has no load(), and its GPT is not" in said
    written = path.read_text(encoding="utf-8")
    assert '    # "transformer.h.#.mlp.c_fc.weight": goes from 20 to 100\n' in written
    assert '"lm_head.weight": "wte.weight",' in written
    compile(written, str(path), "exec")


def test_an_empty_adapter_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "my_adapter.py"
    assert f"{path}: written." in write(f"--new-adapter={path}")
    first = path.read_text(encoding="utf-8")
    adapter = Adapter(str(path), "cpu", torch.float32)
    assert adapter.found is None
    assert "File exists" in write(f"--new-adapter={path}")
    assert path.read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    "chosen", [[], ["gpt2ref", "huggingface"], ["conformance/adapters/gpt2ref.py"]]
)
def test_only_one_model_without_an_adapter_can_be_written(
    chosen: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.py"
    said = write(*(f"--implementation={name}" for name in chosen), f"--write-adapter={path}")
    assert "ERROR: --write-adapter: " in said
    assert not path.exists()


# The whole suite.


def test_models_without_an_adapter_are_judged(tmp_path: Path) -> None:
    sources = {"right": SEPARATE, "wrong": NANO.replace(', approximate="tanh"', "")}
    paths = {name: str(tmp_path / f"{name}.py") for name in sources}
    for name, path in paths.items():
        Path(path).write_text(sources[name], encoding="utf-8")
    chosen = "small and float32-36 or test_activation_curve or test_top_k_one_of_each_row"
    run = judge(
        "conformance", "-k", chosen, *(f"--implementation={each}" for each in paths.values())
    )
    right, wrong = (section(run.stdout, path) for path in paths.values())
    assert "judging GPTModel of right.py: built with a dictionary with vocab_size, " in right
    assert "generate_simple() has temperature 0 alone" in right
    assert "no deviation from GPT-2 found" in right, run.stdout[-5000:]
    assert "judging GPT of wrong.py: built with GPTConfig(block_size, " in wrong
    assert re.findall(r"^(\S+): FAILED$", wrong, re.M) == ["activation.curve"]
    assert re.search(r"^sampling +1 passed$", wrong, re.M)
