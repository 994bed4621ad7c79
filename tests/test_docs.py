"""What the pages say is so: their blocks run, their commands work, their links lead somewhere, none of them is stale.

A command is run in its cheapest faithful form, in a folder of its own that has the repository's files in it: pytest with
--collect-only, of one defect for all, a measurement with --help, `python -m gpt2ref` for two tokens. One that no rule covers
fails, so that a command comes into a page with its rule. What a command is given besides, `my_gpt2.py` or `out.json`, is
there.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FILES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES if path.is_file()}
GENERATED = ("docs/requirements.md", "docs/defects.md")

_FENCED = re.compile(r"^( *)(```+)(.*?)\n(.*?)^\1\2\n?", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_PROGRAMS = r"(?:PYTHONPATH=\S+ )?(?:\.venv/bin/)?(?:pytest|python3?|gpt2-conformance|torchrun|tox|sphinx-build|pip) "


def blocks(page: str, language: str) -> list[str]:
    return [code for _, _, name, code in _FENCED.findall(PAGES[page]) if name.strip() == language]


def prose(page: str) -> str:
    return _FENCED.sub("", PAGES[page])


def inline(page: str) -> list[str]:
    return [" ".join(code.split()) for code in _INLINE.findall(prose(page))]


# Commands.


class Command(NamedTuple):
    words: list[str]
    environment: dict[str, str]

    def __str__(self) -> str:
        return shlex.join([*(f"{name}={value}" for name, value in self.environment.items()), *self.words])


class Job(NamedTuple):
    """What `perform` does in place of a command: `how` is the name of one of its ways."""

    how: str
    words: list[str]
    environment: dict[str, str]
    named: list[str]  # options that the command has, to be found in the help


def commands(page: str) -> list[Command]:
    """Of the ```bash blocks, and of the text."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [code for code in inline(page) if re.match(_PROGRAMS, code)]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [_command(each) for each in words if each]


def _command(words: list[str]) -> Command:
    set_first = list(itertools.takewhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    program, *rest = words[len(set_first) :]
    return Command([program.removeprefix(".venv/bin/"), *rest], dict(word.split("=", 1) for word in set_first))


def job(command: Command) -> Job | None:
    """None for a command that has been looked at here. Raises AssertionError if it can't work, or no rule covers it."""
    words, environment = command
    program, *rest = words
    if program in ("python", "python3") and rest[:1] == ["-m"] and rest[1:2] in (["pytest"], ["pip"]):
        program, *rest = rest[1:]
    if program in ("pytest", "gpt2-conformance"):
        return Job(program, _collecting(rest), environment, [])
    if program in ("torchrun", "cc"):
        return Job(program, rest, environment, [])
    if program in ("python", "python3") and rest[:1] == ["-m"] and rest[1:2] != ["venv"]:
        return _module(rest[1], rest[2:], environment)
    for rule in (_pip, _tox, _looked_at):
        if rule([program, *rest]):
            return None
    raise AssertionError(f"no rule of tests/test_docs.py covers this command: {command}")


def _collecting(rest: list[str]) -> list[str]:
    if {"--help", "-h", "--list-requirements"} & set(rest):
        return rest
    if "--defects" in rest and [*rest, "-"][rest.index("--defects") + 1].startswith("-"):
        rest = [word for each in rest for word in ([each, "gelu-erf"] if each == "--defects" else [each])]  # all take a minute
    words = [os.devnull if before == "--benchmark-json" else word for before, word in itertools.pairwise(["", *rest])]
    return [*words, "--collect-only", "-q", "-n0", "-p", "no:cacheprovider", "-W", "ignore:Not saving anything"]


REPORTERS = ("conformance.page", "conformance.badge", "conformance.defects.page", "benchmarks.report")


def _module(name: str, rest: list[str], environment: dict[str, str]) -> Job:
    if name == "conformance":
        return Job("module", [name, *_collecting(rest)], environment, [])
    if name == "gpt2ref":
        return Job("module", [name, *(rest if "--help" in rest else _short(rest))], environment, [])
    if name in REPORTERS:
        return Job("module", [name, *rest], environment, [])
    if re.fullmatch(r"(conformance\.measure|benchmarks|training)[._]\w+", name):
        return Job("module", [name, *rest, "--help"], environment, [word for word in rest if word.startswith("-")])
    raise AssertionError(f"no rule of tests/test_docs.py covers this command: python -m {name}")


def _short(rest: list[str]) -> list[str]:
    """Two tokens of the model in the package."""
    from gpt2ref.hub import PUBLISHED

    if "--model" in rest:
        model = rest[rest.index("--model") + 1]
        assert model in ("tiny", *PUBLISHED), f"--model {model}: nobody knows it"
    return [*rest, "--model", "tiny", "--max-new-tokens", "2"]


def _pip(words: list[str]) -> bool:
    """Not installed: the extras and files are there."""
    if words[:2] != ["pip", "install"]:
        return False
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1].split("\n[")[0], re.M)
    for before, word in itertools.pairwise(words):
        if match := re.fullmatch(r"(\.|gpt2ref)\[(.*)\]", word):
            unknown = set(match[2].split(",")) - set(extras)
            assert not unknown, f"{word}: no extra {unknown}"
        if before in ("-c", "-r"):
            assert (ROOT / word).is_file(), word
    known = re.compile(r"-\w|--\w[\w-]*|(\.|gpt2ref)(\[.*\])?|build|tox|tox-uv|constraints.txt")
    unknown = {word for word in words[2:] if not known.fullmatch(word)}
    assert not unknown, f"pip install: no rule for {unknown}"
    return True


def _tox(words: list[str]) -> bool:
    from tests.test_matrix import environments

    if words[0] != "tox":
        return False
    asked = words[words.index("-e") + 1].split(",") if "-e" in words else []
    unknown = [name for name in asked if name not in environments()]
    assert not unknown, f"tox.ini has no environment {unknown}"
    return True


BUILD = ["sphinx-build", "-W", "-b", "html", "docs"]


def _looked_at(words: list[str]) -> bool:
    """Commands that other tests, or CI, run word for word."""
    ci = "".join((ROOT / name).read_text(encoding="utf-8") for name in (".ci/run", "tox.ini"))
    if words[0] in ("ruff", "mypy"):
        assert shlex.join(words) in ci, f"neither .ci/run nor tox.ini has {shlex.join(words)}"
        return True
    if words == [".ci/run"]:
        return os.access(ROOT / ".ci/run", os.X_OK)
    if words[:5] == BUILD:  # by test_the_site_builds
        return len(words) == 6
    return words in (["python3", "-m", "venv", ".venv"], ["python", "docs/generate.py"])


# The scratch folder, and what goes on in it.


def furnish(folder: Path, page: str) -> None:
    """The repository's folders, and what the commands of a page are given."""
    from tests.test_benchmark_report import row, written

    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name != "docs" and (path.name in (".ci", ".github") or path.name[0] != "."):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "docs", folder / "docs")  # where a command may write
    adapters = [block for name in (page, "README.md") for block in blocks(name, "python")]
    adapter = next(block for block in adapters if "def load(" in block)
    (folder / "my_gpt2.py").write_text(adapter, encoding="utf-8")
    nanogpt = folder / "path/to/nanoGPT"
    nanogpt.mkdir(parents=True)
    (nanogpt / "model.py").write_text("class GPT: ...\n\n\nclass GPTConfig: ...\n", encoding="utf-8")
    for program in ("my-gpt2", "gpt2"):
        (folder / program).write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / program).chmod(0o755)
    (folder / "f.toml").touch()
    shutil.copy(ROOT / "docs/kill-matrix.json", folder / "kill.json")
    shutil.copy(written(folder / "path", row(), row("huggingface")), folder / "out.json")
    shutil.copy(folder / "out.json", folder / "baseline.json")


def perform(how: str, words: list[str], environment: dict[str, str]) -> int:
    """One job, in this process, in which torch has been imported once."""
    sys.path[:0] = places = [value for name, value in environment.items() if name == "PYTHONPATH"]
    os.environ.update(environment)
    try:
        if how == "pytest":
            return int(pytest.main(words))
        if how == "gpt2-conformance":
            (script,) = importlib.metadata.entry_points(group="console_scripts", name=how)
            return int(script.load()(words))
        if how == "torchrun":
            from torch.distributed.run import parse_args

            chosen = parse_args(words)
            how, words = "module", [chosen.training_script, *chosen.training_script_args, "--help"]
            assert chosen.module, "torchrun without -m"
        if how == "cc":
            return subprocess.run(["cc", *words], check=False).returncode if shutil.which("cc") else 0
        sys.argv = words
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return int(end.code or 0)
        return 0
    finally:
        for place in places:
            sys.path.remove(place)


def perform_all() -> None:
    """Jobs from standard input, each with its folder, and what came of them to standard output."""
    results = []
    given = json.load(sys.stdin)
    sys.path[0] = "."  # as `python -m` has it
    for folder, (how, words, environment, _) in given:
        os.chdir(folder)
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                status = perform(how, words, environment)
            except BaseException as error:
                status = -1
                print(f"{type(error).__name__}: {error}", file=output)
        results.append((status, output.getvalue()))
    print(json.dumps(results))


def in_folders(jobs: list[tuple[str, Job]]) -> list[tuple[int, str]]:
    """Status and output of each, in one process, which imports torch once."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    for name in [name for name in variables if name.startswith("PYTEST_")]:  # those of this run
        del variables[name]
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(jobs), env=variables, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return results


WITH_COMMANDS = [page for page in PAGES if commands(page) and page != "CONTRIBUTING.md"]  # test_contributing.py has them
REPORT = Job("pytest", ["conformance/test_config.py", "--conformance-report", "r.json", "-p", "no:cacheprovider"], {}, [])
# All of pytest's in one, then those of the modules that a page may name.
MODULES = ["gpt2ref", *REPORTERS, "benchmarks.scale", "benchmarks.products", "training.train", "training.evaluate"]
MODULES += [f"conformance.{path.stem}" for path in sorted((ROOT / "conformance").glob("measure_*.py"))]
HELPS = [Job("pytest", ["conformance/", "benchmarks/", "--help"], {}, [])]
HELPS += [Job("module", [module, "--help"], {}, []) for module in MODULES]
FAIL = [
    "pytest conformance/ --implementation no_such.py",
    "pytest conformance/ --no-such-option",
    "pytest conformance/ -k no_such_test",
    "pytest conformance/ --defects no-such-defect",
    "pytest benchmarks/ --bench-size gpt3",
    "gpt2-conformance no_such.py",
    "python -m conformance.measure_nothing",
    "python -m conformance.measure_tolerance --seeds many",
    "python -m conformance.page no-such.json -o page.html",
    "python -m gpt2ref --no-such-option",
    "torchrun --no-such-option 2 -m benchmarks.scale",
]


class Performed(NamedTuple):
    pages: dict[str, list[tuple[str, Job, int, str]]]  # page -> command, job, status, output
    help: str
    failing: list[int]


@pytest.fixture(scope="module")
def performed(tmp_path_factory: pytest.TempPathFactory) -> Performed:
    root = tmp_path_factory.mktemp("commands")
    jobs: list[tuple[str, Job]] = []
    told: list[tuple[str, str]] = []

    def add(page: str, command: str, work: Job) -> None:
        folder = root / page.replace("/", "-")
        if not folder.exists():
            furnish(folder, page)
        jobs.append((str(folder), work))
        told.append((page, command))

    for page in WITH_COMMANDS:
        wanted = [(str(command), work) for command in commands(page) if (work := covered(command))]
        # The report comes first of all, also since pytest has to be the first that imports its plugins.
        for command, work in [("", REPORT), *wanted] if not jobs or any("r.json" in each for each, _ in wanted) else wanted:
            add(page, command, work)
    for work in HELPS:
        add("README.md", "help", work)
    for line in FAIL:
        add("README.md", "fail", covered(_command(shlex.split(line))) or REPORT)

    found = Performed({page: [] for page in WITH_COMMANDS}, "", [])
    helps = []
    for (page, command), (_, work), (status, output) in zip(told, jobs, in_folders(jobs), strict=True):
        if command == "help":
            helps.append(output)
        elif command == "fail":
            found.failing.append(status)
        else:
            found.pages[page].append((command, work, status, output))
    return found._replace(help="\n".join(helps))


def covered(command: Command) -> Job | None:
    """Its job; None where there is none, or no rule, which is a test's to say."""
    try:
        return job(command)
    except AssertionError:
        return None


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_work(page: str, performed: Performed) -> None:
    """Also those in the text."""
    for each in commands(page):
        job(each)
    for command, work, status, output in performed.pages[page]:
        assert status == 0, f"{command}\nwas run as {work.how} {shlex.join(work.words)}, and gave {status}:\n{output[-3000:]}"
        missing = [name for name in work.named if not _has(output, name)]
        assert not missing, f"{command}: its --help does not name {', '.join(missing)}"


def test_a_command_that_does_not_work_is_seen(performed: Performed) -> None:
    assert [line for line, status in zip(FAIL, performed.failing, strict=True) if status == 0] == []


@pytest.mark.parametrize("page", PAGES)
def test_options_that_are_named_exist(page: str, performed: Performed) -> None:
    """Somewhere among the helps: what an option belongs to, a text says in words."""
    options = [word.split("=")[0] for code in inline(page) if code.startswith("--") for word in code.split()]
    assert [option for option in options if option.startswith("--") and not _has(performed.help, option)] == []


def test_options_are_told_from_longer_ones(performed: Performed) -> None:
    assert _has(performed.help, "--bench-size")
    assert not _has(performed.help, "--bench")


def _has(text: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


# The rules themselves.


@pytest.mark.parametrize(
    "line",
    [
        "rm -rf /tmp/x",
        "python -m conformance.nothing",
        "python -m http.server",
        "pip install requests",
        "pip install -c nowhere.txt .",
        "pip install 'gpt2ref[nothing]'",
        "tox -e torch0.1",
        "ruff check --fix",
        "python docs/other.py",
        "sphinx-build docs out",
        "python -m gpt2ref --model gpt3",
    ],
)
def test_a_command_that_can_not_work_or_has_no_rule_fails(line: str) -> None:
    with pytest.raises(AssertionError):
        job(_command(shlex.split(line)))


# Python blocks.


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page != "README.md"])
def test_the_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(The README's: test_readme.py. That the adapter on the adapters' page is right: test_command.py.)"""
    model = ModuleType("model")  # nanoGPT's
    vars(model).update(GPT=type("GPT", (), {}), GPTConfig=type("GPTConfig", (), {}))
    monkeypatch.setitem(sys.modules, "model", model)
    furnish(tmp_path / "folder", page)
    monkeypatch.chdir(tmp_path / "folder")
    for block in blocks(page, "python"):
        names: dict[str, Any] = {}
        exec(compile(block, page, "exec"), names)
        assert "def load(" not in block or callable(names["load"])


# Links.


def slug(heading: str) -> str:
    """The anchor that a code host, and MyST, give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")


def anchors(text: str) -> list[str]:
    headings = re.findall(r"^#+ (.*?) *$", _FENCED.sub("", text), re.M)
    return [slug(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)) for heading in headings] + re.findall(r'<a id="(.*?)"', text)


def links(page: str) -> Iterator[str]:
    text = _INLINE.sub("`", prose(page))
    yield from re.findall(r"\]\(\s*([^)\s]+)\)", text)
    yield from re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.M)
    yield from re.findall(r'(?:src|href)="(.*?)"', text)


def broken(page: str) -> Iterator[str]:
    for link in links(page):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if (
            not target.exists()
            or not target.resolve().is_relative_to(ROOT)
            or (anchor and anchor not in anchors(target.read_text(encoding="utf-8")))
        ):
            yield link


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert sorted(set(broken(page))) == []


@pytest.mark.parametrize("link", ["nowhere.md", "adapters.md#nowhere", "#nowhere", "../../outside.md", "../nowhere.py"])
def test_a_link_that_leads_nowhere_is_seen(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "docs/index.md"
    monkeypatch.setitem(PAGES, page, f"{PAGES[page]}\n[a](https://example.org) [b]({link}) [c](adapters.md)\n")
    assert list(broken(page)) == [link]


def test_references_by_name_are_defined() -> None:
    for page in GENERATED:
        defined = set(re.findall(r"^\[([^\]]+)\]: ", PAGES[page], re.M))
        used = set(re.findall(r"(?<!\\)\[([\w.-]+)\](?![(:])", PAGES[page]))
        assert used, page
        assert used <= defined, page


@pytest.mark.parametrize("page", PAGES)
def test_anchors_are_unique(page: str) -> None:
    found = [anchor for anchor in anchors(PAGES[page]) if "." not in anchor]
    # In a changelog the same headings come back with every version.
    assert page == "CHANGELOG.md" or len(found) == len(set(found)), sorted({a for a in found if found.count(a) > 1})


def test_every_page_is_in_the_contents() -> None:
    listed = set(re.search(r"```{toctree}(.*?)```", PAGES["docs/index.md"], re.S)[1].split()) - {":hidden:"}  # type: ignore[index]
    assert listed == {Path(page).stem for page in PAGES if page.startswith("docs/")} - {"index"}


# What is generated.


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    from docs.generate import pages

    return pages()


@pytest.mark.parametrize("page", GENERATED)
def test_generated_pages_are_as_the_code_has_it(page: str, made: dict[str, str]) -> None:
    assert PAGES[page] == made[Path(page).name], f"{page} is stale: python docs/generate.py"


def test_every_entry_and_requirement_is_there_and_they_lead_to_each_other(made: dict[str, str]) -> None:
    from conformance.defects import DEFECTS, EQUIVALENT, VARIANTS
    from conformance.requirements import REQUIREMENTS

    defects, requirements = made["defects.md"], made["requirements.md"]
    for entry in (DEFECTS | EQUIVALENT | VARIANTS).values():
        assert f"\n### {entry.id}\n" in defects
    for name, requirement in REQUIREMENTS.items():
        assert f'<a id="{name}"></a>\n\n### {name}\n' in requirements
        assert f"\n[{name}]: requirements.md#{slug(name)}\n" in f"{defects}\n"
        assert requirement.sentence in requirements.replace("\\", "")
    for entry in DEFECTS.values():
        assert f"[{entry.id}]" in section(requirements, str(entry.requirement)).split("Must catch: ")[1].split("\n")[0]
        assert f"aught by: [{entry.requirement}]" in section(defects, entry.id)


def section(page: str, heading: str) -> str:
    return page.split(f"\n### {heading}\n")[1].split("\n### ")[0]


def test_what_catches_what_is_what_was_measured() -> None:
    """kill-matrix.json is of this catalogue, and of these requirements."""
    from conformance.defects.matrix import ENTRIES
    from conformance.requirements import REQUIREMENTS

    matrix = json.loads((ROOT / "docs/kill-matrix.json").read_text(encoding="utf-8"))
    again = "measure it again: pytest conformance/ --defects --defects-report docs/kill-matrix.json"
    assert [entry["id"] for entry in matrix["entries"]] == list(ENTRIES), again
    assert [requirement["id"] for requirement in matrix["requirements"]] == list(REQUIREMENTS), again
    assert matrix["problems"] == []


# The site.


def test_the_reference_has_every_public_name() -> None:
    import gpt2ref

    listed = re.findall(r"^\.\. (?:auto)?(?:function|class|exception|data):: (\w+)", PAGES["docs/reference.md"], re.M)
    assert sorted(listed) == sorted(gpt2ref.__all__)
    assert f":value: {gpt2ref.EOS}" in PAGES["docs/reference.md"]


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="pip install '.[docs]'")
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", *BUILD[1:], str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert build.returncode == 0, build.stderr[-3000:]
    found: Callable[[str], str] = lambda name: (tmp_path / name).read_text(encoding="utf-8")  # noqa: E731
    assert 'href="requirements.html#activation-curve"' in found("defects.html")
    assert 'href="defects.html#gelu-erf"' in found("requirements.html")
    assert 'id="gpt2ref.generate"' in found("reference.html")


if __name__ == "__main__":
    perform_all()
