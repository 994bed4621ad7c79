"""A port is judged by a file of its answers, without running it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from conformance.__main__ import main
from conformance.adapters.adapter import Adapter
from conformance.adapters.protocol import PRECISIONS
from conformance.defects import DEFECTS
from conformance.diagnosis.comparison import defective
from conformance.diagnosis.known_to_show import read_shows
from conformance.studies.vectors import study
from conformance.vectors.answers import read_answers
from conformance.vectors.comparing import compare
from conformance.vectors.errors import VectorsError
from conformance.vectors.shows import shows
from conformance.vectors.verdict import judge_answers, too_close
from conformance.vectors.write import HERE
from conformance.verdict.findings import FAILED, PASSED
from tests.shared.vectors import answers_file, comparison, written

# transformers' own, of an argument that has another name in its next versions
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ROOT = Path(__file__).parents[2]


def judged(load, tmp_path, change=None, only=""):
    file = answers_file(load, tmp_path / "answers.json", change=change, only=only)
    given = read_answers(file, written())
    shared = comparison() if given.precision == "float32" else None
    return judge_answers(given, written(), tmp_path, shared)


def adapter(name, dtype=torch.float32):
    made = Adapter(name, "cpu", dtype)
    return lambda folder, dtype: made.load(folder, dtype=dtype)


# Nothing harmless is flagged.


@pytest.mark.parametrize("name", ["gpt2ref", "huggingface"])
def test_a_right_gpt2_passes(name, tmp_path):
    judgement = judged(adapter(name), tmp_path)
    assert judgement.state == "no deviation found"
    assert judgement.counts["passed"] > 90


# The precision that an engine declares, and the cases that it is known to fail (see its adapter).
ENGINES = {
    "ctranslate2": (
        "float32",
        "lacks-c_fc lacks-ln_f third-block unscaled scaled-by-layer epsilon nan",
    ),
    "llama_cpp": ("float16", "nan"),
    "transformer_lens": ("float32", ""),
}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_fails_what_is_known_of_it_and_nothing_more(name, tmp_path):
    pytest.importorskip(name)
    precision, failing = ENGINES[name]
    load = adapter(f"conformance.adapters.{name}", PRECISIONS[precision])
    file = answers_file(load, tmp_path / "answers.json", precision=precision)
    given = read_answers(file, written())
    found = {
        case: compare(each, given.answers[case], given.said[case], precision)
        for case, each in written().cases.items()
    }
    close = too_close(written(), given)
    wrong = {
        case: each.found
        for case, each in found.items()
        if each.outcome == FAILED and case not in close
    }
    assert wrong.keys() == set(failing.split()), wrong
    assert sum(each.outcome == PASSED for each in found.values()) > 40


def test_a_lower_precision_is_held_to_its_own_error(tmp_path):
    def load(folder, **_):
        return defective()(folder, dtype=torch.bfloat16)

    judgement = judged(load, tmp_path, only="embedding head attention activation")
    assert judgement.state == "deviates"
    assert "bfloat16's rounding" in judgement.undiagnosed
    judgement = judged(load, tmp_path, lambda content: content.update(precision="bfloat16"))
    assert judgement.state == "no deviation found"
    assert judgement.outcome("generation.greedy") == "not applicable"


@pytest.mark.parametrize(
    ("variant", "requirement", "outcome"),
    [
        ("topk-exactly-k", "sampling.top-k-ties", "variant"),
        ("centred-unembed", "head.raw", "variant"),
        ("context-end-refused", "generation.window", "variant"),
        ("head-of-its-own", "keys.differing-head", "passed"),
    ],
)
def test_a_variant_is_none_of_the_failures(variant, requirement, outcome, tmp_path):
    judgement = judged(defective(variant), tmp_path, only=requirement)
    assert not judgement.failed
    assert judgement.outcome(requirement) == outcome


# Mistakes are named.


@pytest.mark.parametrize(
    ("mistakes", "requirements", "only"),
    [
        ("gelu-erf", {"activation.curve"}, ""),
        ("text-nfc", {"text.encode"}, "text"),
        ("kv-swapped-on-reorder", {"generation.ragged"}, "generation.ragged"),
        ("cache-aliased-branches", {"cache.branches"}, "cache"),
        ("gelu-erf+eos-kept", {"activation.curve", "eos.middle"}, ""),
    ],
)
def test_mistakes_are_named_and_fail_their_own_requirement(mistakes, requirements, only, tmp_path):
    names = mistakes.split("+")
    judgement = judged(defective(*names), tmp_path, only=only)
    assert judgement.failed.keys() == requirements
    assert {cause.id for cause in judgement.causes} == set(names)
    assert not judgement.unexplained


def test_a_constant_is_read_from_the_answers(tmp_path):
    judgement = judged(
        defective("epsilon-of-ln_f=0.0003"), tmp_path, only="layer-norm head embedding"
    )
    assert [cause.id for cause in judgement.causes] == ["epsilon-of-ln_f=0.0003"]
    assert judgement.failed.keys() == {"layer-norm.epsilon-ln_f"}


def test_nan_is_a_wrong_answer_and_named_with_its_case(tmp_path):
    def change(content):
        content["answers"]["head"][0][1][2][3] = math.nan

    finding = judged(defective(), tmp_path, change, only="head").failed["head.raw"].decisive
    assert "case head, answer 0: token 18 at row 1, position 2 has logit nan" in finding.read


def test_where_all_logits_are_nan_no_mistake_is_looked_for(tmp_path):
    def change(content):
        for answers in content["answers"].values():
            for each in answers:
                each[:] = [[[None] * len(row[0])] * len(row) for row in each]

    judgement = judged(defective(), tmp_path, change, only="head embedding")
    assert judgement.state == "deviates"
    assert judgement.undiagnosed == "no logit is a finite number"
    assert judgement.diagnosis is None


def test_the_study_says_what_the_files_catch(tmp_path, capsys):
    """A sample of what it judges: the whole catalogue takes minutes."""
    names = ["scale-by-layer", "eos-any-row", "seed-from-clock"]
    harmless = ["topk-exactly-k"]
    study(written(), tmp_path, names=names, harmless=harmless, shows=tmp_path / "shows.json")
    said = capsys.readouterr().out
    assert "not seen: seed-from-clock (sampling.seed): What a seed does is" in said
    assert "2 of 3 defects are caught by the files" in said
    assert "0 of 1 harmless ones are flagged" in said
    found = read_shows(tmp_path / "shows.json")
    assert "attention" in found["scale-by-layer"]
    assert "rows-that-end" in found["eos-any-row"]
    assert not found["seed-from-clock"]


def test_what_is_known_to_show_is_about_these_cases():
    """After a change of cases: python -m conformance.studies.vectors --shows FILE"""
    assert shows().keys() == DEFECTS.keys()
    asked = {name for names in shows().values() for name in names}
    assert asked <= written().cases.keys()


# What is no file of answers.


def drop(content):
    content["answers"]["plain"][0].pop()


def cut(content):
    content["answers"]["greedy"][0][0] = 5


def number(value):
    def put(content):
        content["answers"]["head"][0][1][2][3] = value

    return put


def answer(value):
    return lambda content: content["answers"].update(head=value)


def deep(content):
    nested: list[Any] = []
    for _ in range(500):
        nested = [nested]
    answer([nested])(content)


WRONG = {
    "case plain: answer 0: logits of shape": drop,
    "case greedy: answer 0, row 0: expected a list of token ids": cut,
    "case head: expected a list of 1 answers": answer([]),
    "case head: answer 0: expected logits [row][position][token]": answer(["x"]),
    "case head: answer 0: expected numbers, found list": deep,
    "case head: answer 0: expected numbers, found str": number("1.5"),
    "case head: answer 0: expected numbers, found bool": number(True),
    "case head: int too large to convert to float": number(10**400),
    "case head: expected an object with a text `error`": answer({"a": 1}),
    "case head: expected an object with a text `error` or": answer({"error": None}),
    "case nothing: there is no such case": lambda c: c["answers"].update(nothing=[]),
    "format 2 is from a later version": lambda c: c.update(format=2),
    "the answers are to other vectors": lambda c: c.update(index_sha256="0"),
    "precision: 'int4'": lambda c: c.update(precision="int4"),
    "precision: []": lambda c: c.update(precision=[]),
    "expected a text `name`": lambda c: c.pop("name"),
    "name: expected a line of 1 to 100 characters": lambda c: c.update(name="a\nb"),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_file_is_refused_in_one_sentence(words, tmp_path):
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(right_answers(tmp_path)), encoding="utf-8")
    content = json.loads(file.read_text(encoding="utf-8"))
    WRONG[words](content)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(VectorsError) as raised:
        read_answers(file, written())
    assert str(raised.value).startswith(f"{file}: ")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


_RIGHT: list[str] = []


def right_answers(tmp_path):
    if not _RIGHT:
        file = answers_file(defective(), tmp_path / "right.json")
        _RIGHT.append(file.read_text(encoding="utf-8"))
    return json.loads(_RIGHT[0])


def test_answers_are_as_their_schema_says(tmp_path):
    schema = json.loads((HERE / "answers.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(right_answers(tmp_path), schema)


# The command.


def test_the_command_writes_the_verdict_the_report_and_the_page(tmp_path, capsys, monkeypatch):
    file = answers_file(defective("gelu-erf"), tmp_path / "answers.json", "my port")
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    monkeypatch.setattr("conformance.vectors.verdict.VectorComparison", lambda *_: comparison())
    words = ["--read-answers", str(file), "--vectors", str(written().folder)]
    status = main([*words, "--conformance-report", str(report), "--page", str(page)])
    out = capsys.readouterr().out
    assert status == 1
    assert "activation.curve: FAILED" in out
    assert "compare with cases/mlp.json" in out
    assert "cause: gelu-erf" in out
    content = json.loads(report.read_text(encoding="utf-8"))
    format_of_reports = ROOT / "conformance/verdict/report.schema.json"
    jsonschema.validate(content, json.loads(format_of_reports.read_text(encoding="utf-8")))
    assert content["adapters"][0]["causes"][0]["id"] == "gelu-erf"
    assert "my port" in page.read_text(encoding="utf-8")


def test_the_command_says_in_one_line_what_it_can_t_do(tmp_path, capsys):
    new = ["--write-vectors", str(tmp_path / "new")]
    missing = ["--read-answers", "missing.json", "--vectors", str(written().folder)]
    wrong = {
        "it is there already": ["--write-vectors", str(written().folder)],
        "missing.json: can't be read": missing,
        "--page": [*missing, "--page", str(tmp_path / "nowhere" / "page.html")],
        "--full and --read-answers don't go together": [*missing, "--full"],
        "--page and --write-vectors don't go together": [*new, "--page", str(tmp_path / "p.html")],
        "a file of its own content": [*new, "--archive", str(tmp_path / "new" / "a.tar")],
    }
    for said, words in wrong.items():
        assert main(words) == 4
        error = capsys.readouterr().err
        assert error.startswith("ERROR: ")
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_without_an_answer_nothing_is_judged(tmp_path, capsys):
    file = answers_file(
        defective(), tmp_path / "answers.json", change=lambda c: c["answers"].clear()
    )
    assert main(["--read-answers", str(file), "--vectors", str(written().folder)]) == 5
    assert "nothing could be judged" in capsys.readouterr().out


def test_an_error_of_a_port_is_shown_as_one_line(tmp_path):
    def change(content):
        content["answers"]["head"] = {"error": "no\x1b[31m such\nthing \ud800"}

    file = answers_file(defective(), tmp_path / "answers.json", change=change, only="head")
    assert read_answers(file, written()).said["head"] == "no [31m such thing  "
