"""The terminal shows a card before the run, a bar during it, and bars after it."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bars import bars, shortened
from benchmarks.card import card, guessed_seconds, words_for
from benchmarks.limits import Bandwidth
from benchmarks.measurement import take_turns
from benchmarks.progress import Progress, TerminalProgress
from benchmarks.run import Outcome, Run
from tests.shared.benchmark_fakes import NEW_TOKENS, Clock, Costly, cell, measurement, plan
from tests.shared.benchmark_results import a_result, an_invalid_result
from tests.shared.model_files import NANO

LIMIT = 200.0
SLOW = Bandwidth(25e9, "sum")


def row(name: str, rate: float, **fields: Any) -> dict[str, Any]:
    return a_result(name, (rate,), ceiling_tokens_per_second=LIMIT, **fields)


def bad(name: str, **fields: Any) -> dict[str, Any]:
    return an_invalid_result(name, ceiling_tokens_per_second=LIMIT, **fields)


def test_the_card_has_80_columns_and_says_all_that_is_run(tmp_path: Path) -> None:
    model = tmp_path / "a_folder_with_a_long_name" / "another_one" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text(NANO, encoding="utf-8")
    asked = plan(
        implementation=[f"{model},gpt2ref,huggingface"], top_k=["none,40"], temperature=["0,0.7"]
    )
    lines = card(asked, {"device_name": "A processor of some company " * 4}, SLOW)
    text = " ".join(" ".join(lines).split())
    assert all(len(line) <= 80 for line in lines)
    assert "_name/another_one/model.py, gpt2ref, huggingface, in turns" in text
    assert "recognised GPT of model.py: built with GPTConfig(" in text
    assert "gpt2; float32; batch 1; prompt 5; 16 new tokens" in text
    assert "temperature 0, 0.7; top-k none, 40" in text
    assert "limit 50.4 tokens/s for gpt2 in float32, batch 1: a step reads 496 MB" in text
    assert f"time about {words_for(guessed_seconds(asked, SLOW))} for 4 cells" in text
    assert text.endswith("; several times that for one without a cache")
    assert card(plan(), {}, SLOW)[-1].endswith("1 + 2 rounds")


def test_a_guess_grows_with_the_work() -> None:
    small = guessed_seconds(plan(), SLOW)
    assert small < guessed_seconds(plan(batch=["1,8"]), SLOW)
    assert small < guessed_seconds(plan(new_tokens="64"), SLOW)
    assert small < guessed_seconds(plan(size=["gpt2-medium"]), SLOW)
    assert guessed_seconds(plan(), Bandwidth(50e9, "sum")) < small


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "10 seconds"),
        (33, "30 seconds"),
        (60, "1 minute"),
        (200, "3 minutes"),
        (5400, "2 hours"),
    ],
)
def test_a_guess_has_one_digit(seconds: float, words: str) -> None:
    assert words_for(seconds) == words


def test_the_bars_are_as_long_as_the_rates_up_to_the_limit() -> None:
    results = [row("gpt2ref", 150.0), row("huggingface", 50.0), bad("broken")]
    blank, title, fast, slow, invalid, limit = bars(results)
    assert blank == ""
    assert title == (
        "decode tokens/s: gpt2, float32, batch 1, prompt 32, temperature 0, top-k none"
    )
    assert max(map(len, (fast, slow, invalid, limit))) == 80
    assert [line.index("│") for line in (fast, slow, invalid)] == [limit.index("│")] * 3
    room = limit.index("│") - fast.index("█")
    assert fast.count("█") / room == pytest.approx(0.75, abs=0.03)
    assert slow.count("█") / room == pytest.approx(0.25, abs=0.03)
    assert fast.split()[-2:] == ["150.0", "75%"]
    assert "█" not in invalid
    assert invalid.endswith(" invalid")
    assert limit.split()[-2:] == ["200.0", "100%"]


def test_a_bar_above_the_limit_passes_its_mark() -> None:
    *_, fast, limit = bars([row("fast", 216.0)])
    assert fast.index("│") == limit.index("│")
    assert fast[fast.index("│") + 1] == "█"
    assert len(fast) == 80
    assert fast.endswith("108%")


def test_each_shape_has_a_picture_at_its_plainest_setting() -> None:
    results = [
        row("a", 1.0, temperature=1.0),
        row("a", 2.0, temperature=1.0, top_k=40),
        row("a", 3.0, batch=4, temperature=0.0),
        row("a", 4.0, batch=4, temperature=1.0),
    ]
    lines = bars(results)
    titles = [line for line in lines if line.startswith("decode")]
    assert [title.partition("batch ")[2] for title in titles] == [
        "1, prompt 32, temperature 1, top-k none",
        "4, prompt 32, temperature 0, top-k none",
    ]
    assert [line.split()[-2] for line in lines if line.startswith("a ")] == ["1.0", "3.0"]


def test_a_terminal_with_ascii_alone_gets_ascii() -> None:
    for encoding in ("ascii", "cp1252", "no-such-encoding", None):
        lines = bars([row("a/very/long/path/to/somewhere/model.py", 150.0)], encoding)
        assert "\n".join(lines).isascii()
        assert "####" in lines[2]


def test_of_a_long_path_the_end_stays() -> None:
    assert shortened("model.py", 18) == "model.py"
    assert shortened("/home/somebody/models/model.py", 18) == "…y/models/model.py"
    assert shortened("command: ./my-gpt2 --threads 1", 18) == "command: ./my-gpt…"
    assert len(shortened("gpt2ref-with-a-long-name", 18)) == 18


class Recorded(Progress):
    def __init__(self) -> None:
        self.begun: list[str] = []

    def advance(self, name: str) -> None:
        self.begun.append(name)


def test_every_generation_moves_the_bar() -> None:
    clock, progress = Clock(), Recorded()
    costly = Costly.of(clock, [1.0] * NEW_TOKENS, [[7] * NEW_TOKENS])
    own = measurement(costly, cell(), clock)
    take_turns([own], 3, progress.advance)
    assert progress.begun == ["costly"] * 4


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_is_drawn_on_a_terminal_alone(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    progress = TerminalProgress(4, nullcontext)
    progress.clear()  # nothing is there yet
    for _ in range(2):
        progress.advance("model.py")
    progress.reach(0.5)
    assert progress.bar is not None
    assert progress.bar.n == 2 * is_terminal
    progress.reach(1.0)
    progress.close()
    assert ("model.py" in shown.getvalue()) == is_terminal


def test_what_failed_or_is_refused_is_listed_with_its_reason() -> None:
    from benchmarks.implementations import RefusedError

    run = Run.__new__(Run)
    run.not_measured = []
    run._outcomes = {
        cell(): {
            "a.py": Outcome(None, [], RefusedError("no top_k")),
            "b.py": Outcome(None, [], ValueError("bad\nmore")),
            "gpt2ref": Outcome({}, [1.0], None),
        }
    }
    run._note_errors(cell())
    assert run.not_measured == [
        "refused: a.py, temperature 0, top-k none: no top_k",
        "failed: b.py, temperature 0, top-k none: ValueError: bad more",
    ]
