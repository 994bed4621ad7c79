"""Every command on the pages works, and every option that they name exists.

A command without a rule in tests/shared/documented_commands.py fails: add a rule with the command.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

import pytest

from tests.shared.documentation import PAGES, ROOT, inline
from tests.shared.documented_commands import (
    REPORTERS,
    Command,
    Job,
    command_of,
    commands,
    furnish,
    in_folders,
    job,
)

# test_contributing.py checks the commands of CONTRIBUTING.md.
WITH_COMMANDS = [page for page in PAGES if commands(page) and page != "CONTRIBUTING.md"]
REPORT = Job(
    "pytest",
    ["conformance/test_config.py", "--conformance-report", "r.json", "-p", "no:cacheprovider"],
    {},
    [],
)
# The modules whose --help is read. One --help of pytest has the options of all folders.
MODULES = [
    "gpt2ref",
    *REPORTERS,
    "benchmarks.scale",
    "benchmarks.matrix_products",
    "training.train",
    "training.evaluate",
    # Earlier names of commands
    "conformance.page",
    "conformance.badge",
    "conformance.defects.page",
    "benchmarks.products",
]
MODULES += [
    f"conformance.studies.{path.stem}"
    for path in sorted((ROOT / "conformance/studies").glob("[a-z]*.py"))
]
HELPS = [
    Job("pytest", ["conformance/", "benchmarks/", "--help"], {}, []),
    *(Job(program, ["--help"], {}, []) for program in ("gpt2-conformance", "gpt2-benchmark")),
]
HELPS += [Job("module", [module, "--help"], {}, []) for module in MODULES]
FAIL = [
    "pytest conformance/ --implementation no_such.py",
    "pytest conformance/ --no-such-option",
    "pytest conformance/ -k no_such_test",
    "pytest conformance/ --defects no-such-defect",
    "pytest benchmarks/ --bench-size gpt3",
    "gpt2-conformance no_such.py",
    "python -m conformance.studies.nothing",
    "python -m conformance.studies.tolerance --seeds many",
    "python -m conformance.pages no-such.json -o page.html",
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
    names: list[tuple[str, str]] = []  # page and command of each job

    def add(page: str, command: str, work: Job) -> None:
        folder = root / page.replace("/", "-")
        if not folder.exists():
            furnish(folder, page)
        jobs.append((str(folder), work))
        names.append((page, command))

    for page in WITH_COMMANDS:
        wanted = [(str(command), work) for command in commands(page) if (work := covered(command))]
        # The report comes first: later commands read it, and pytest must be the first to import
        # its own plugins.
        for command, work in (
            [("", REPORT), *wanted]
            if not jobs or any("r.json" in each for each, _ in wanted)
            else wanted
        ):
            add(page, command, work)
    for work in HELPS:
        add("README.md", "help", work)
    for line in FAIL:
        add("README.md", "fail", covered(command_of(shlex.split(line))) or REPORT)

    found = Performed({page: [] for page in WITH_COMMANDS}, "", [])
    helps = []
    for (page, command), (_, work), (status, output) in zip(
        names, jobs, in_folders(jobs), strict=True
    ):
        if command == "help":
            helps.append(output)
        elif command == "fail":
            found.failing.append(status)
        else:
            found.pages[page].append((command, work, status, output))
    return found._replace(help="\n".join(helps))


def covered(command: Command) -> Job | None:
    """Return the job of a command, or None if it has none or no rule covers it."""
    try:
        return job(command)
    except AssertionError:
        return None


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_work(page: str, performed: Performed) -> None:
    """Commands are those of the code blocks and those in the text."""
    for each in commands(page):
        job(each)
    for command, work, status, output in performed.pages[page]:
        assert status == 0, (
            f"{command}\nran as {work.how} {shlex.join(work.words)}, with status {status}:\n"
            f"{output[-3000:]}"
        )
        missing = [name for name in work.named if not _has(output, name)]
        assert not missing, f"{command}: its --help does not name {', '.join(missing)}"


def test_a_command_that_does_not_work_is_found(performed: Performed) -> None:
    assert [line for line, status in zip(FAIL, performed.failing, strict=True) if status == 0] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_named_options_exist(page: str, performed: Performed) -> None:
    """Each option is in the help of some command."""
    options = [
        word.split("=")[0]
        for code in inline(page)
        if code.startswith("--")
        for word in code.split()
    ]
    assert [
        option for option in options if option.startswith("--") and not _has(performed.help, option)
    ] == []


def test_an_option_is_not_found_inside_a_longer_one(performed: Performed) -> None:
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
        "python -m conformance.studies",
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
def test_a_command_that_cannot_work_or_has_no_rule_fails(line: str) -> None:
    with pytest.raises(AssertionError):
        job(command_of(shlex.split(line)))
