"""Write requirements.md, defects.md and failures.json again: `python docs/generate.py`.

A build of the site does the same (see `conf.py`), and a test compares the committed files. The
pages take requirements and defects from the code, and which requirement catches which defect from
kill-matrix.json, which `pytest conformance/ --defects --defects-report docs/kill-matrix.json`
writes. `conformance/defects/failures.json` is what a verdict needs of that file.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))  # a clone need not be installed

from conformance.defects import DEFECTS, EQUIVALENT, FAMILIES, VARIANTS, Entry  # noqa: E402
from conformance.kill_matrix.matrix import NEVER  # noqa: E402
from conformance.requirements import REQUIREMENTS, Requirement  # noqa: E402
from conformance.verdict.findings import FAILED, VARIANT  # noqa: E402

NOTE = "<!-- Made by docs/generate.py. Edit what it reads instead, {}. -->"
NEEDS = {
    "logits": "`logits` alone",
    "cache": "`prefill` and `step`",
    "generation": "`generate`",
    "text": "`encode` and `decode`",
    "weights": "`state_dict`",
}
_COMMANDS = (
    "python -m conformance.pages docs/kill-matrix.json -o kill.html",
    "pytest conformance/ --defects gelu-erf,no-scale",
    "pytest conformance/ --implementation conformance.defects:gelu-erf",
)
_CODE = re.compile(r"(`[^`]*`)")
_MARKUP = re.compile(r"[\\*\[\]<>]|(?<!\w)_|_(?!\w)")
_ISSUES = re.compile(r"([\w.-]+/[\w.-]+)((?:,? #\d+)+)")
_COMMIT = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{7,40})\b")


@cache
def matrix() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((FOLDER / "kill-matrix.json").read_text(encoding="utf-8"))
    return data


@cache
def outcomes() -> dict[str, dict[str, str]]:
    """Return entry -> requirement -> outcome, without the entries that have not been judged."""
    return {entry["id"]: entry["outcomes"] for entry in matrix()["entries"]}


def caught_by(entry: Entry, outcome: str = FAILED) -> list[str]:
    found = outcomes().get(entry.id, {})
    return [name for name in REQUIREMENTS if found.get(name) == outcome]


def catches(requirement: str) -> list[str]:
    return [name for name, entry in DEFECTS.items() if requirement in caught_by(entry)]


# Markdown that a code host and MyST read in the same way.


def slug(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def text(plain: str) -> str:
    """Escape what would be markup. `code` stays code."""
    parts = _CODE.split(plain)
    return "".join(
        part if part.startswith("`") else _MARKUP.sub(lambda match: "\\" + match[0], part)
        for part in parts
    )


def source(plain: str) -> str:
    """Link the issues and commits that a source names."""

    def issues(match: re.Match[str]) -> str:
        repository, numbers = match[1], re.findall(r"#(\d+)", match[2])
        links = [
            f"[#{number}](https://github.com/{repository}/issues/{number})" for number in numbers
        ]
        return f"{repository} {', '.join(links)}"

    commits = _COMMIT.sub(r"[\1@\2](https://github.com/\1/commit/\2)", plain)
    return _ISSUES.sub(issues, commits)


def links(names: Iterable[str]) -> str:
    """Link names that `definitions` defines."""
    return ", ".join(f"[{name}]" for name in names)


def definitions(names: Iterable[str], page: str) -> Iterator[str]:
    """Define where the links of a page lead."""
    yield from (f"[{name}]: {page}#{slug(name)}" for name in names)


def paragraph(words: str) -> Iterator[str]:
    yield from ("", *textwrap.wrap(words, 120, break_long_words=False, break_on_hyphens=False))


def folded(summary: str, names: list[str]) -> Iterator[str]:
    if names:
        yield from (
            "",
            f"<details><summary>{summary}</summary>",
            "",
            links(names),
            "",
            "</details>",
        )


# The pages.


def requirements_page() -> Iterator[str]:
    environment = matrix()["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("torch", "transformers"))
    yield from (
        "# Requirements",
        "",
        NOTE.format("conformance/requirements.py and docs/kill-matrix.json"),
    )
    yield from paragraph(
        f"The suite has {len(REQUIREMENTS)} requirements. Each has an id that keeps its meaning, "
        "one sentence, its source, and the defects of the [catalogue](defects.md) that it catches. "
        "`pytest conformance/ --list-requirements` prints them. `pytest conformance/ --defects` "
        "measures what they catch. It was last run on "
        f"{matrix()['date']}, with Python {environment['python']}, {versions}."
    )
    yield from paragraph(
        "A requirement applies to an implementation that has the methods that it needs "
        "([adapters](adapters.md)). For any other it is *not applicable*."
    )
    yield ""
    yield from _families()
    for requirement in REQUIREMENTS.values():
        if requirement == _family(requirement.family)[0]:
            yield from ("", f"## {requirement.family}")
        yield from _requirement(requirement)
    yield ""
    yield from definitions(DEFECTS, "defects.md")


def _family(name: str) -> list[Requirement]:
    return [requirement for requirement in REQUIREMENTS.values() if requirement.family == name]


def _families() -> Iterator[str]:
    yield "| family | requirements | defects that it catches | needs |"
    yield "|---|---:|---:|---|"
    for name in dict.fromkeys(requirement.family for requirement in REQUIREMENTS.values()):
        requirements = _family(name)
        caught = {defect for requirement in requirements for defect in catches(requirement.id)}
        needs = "; ".join(dict.fromkeys(NEEDS[requirement.profile] for requirement in requirements))
        yield f"| [{name}](#{slug(name)}) | {len(requirements)} | {len(caught)} | {needs} |"


def _requirement(requirement: Requirement) -> Iterator[str]:
    caught = catches(requirement.id)
    named = [name for name, entry in DEFECTS.items() if entry.requirement == requirement.id]
    yield from ("", f'<a id="{requirement.id}"></a>', "", f"### {requirement.id}", "")
    yield text(requirement.sentence)
    yield ""
    yield f"- Source: {text(requirement.source)}; since {requirement.since}"
    yield f"- Needs: {NEEDS[requirement.profile]}"
    for variant in VARIANTS.values():
        if variant.requirement == requirement.id:
            yield f"- Variant: [{variant.id}](defects.md#{slug(variant.id)})"
    if named:
        yield f"- Must catch: {links(named)}"
    alone = [name for name in caught if len(caught_by(DEFECTS[name])) == 1]
    if alone:
        yield f"- Alone catches: {links(alone)}"
    if requirement.id in NEVER:
        yield "- Catches: not measured, as it needs real weights or 20 GB of memory"
    elif not caught:
        yield "- Catches: not measured yet"
    yield from folded(f"Catches {len(caught)} of {len(DEFECTS)}", caught)


def defects_page() -> Iterator[str]:
    caught = [entry for entry in DEFECTS.values() if entry.requirement in caught_by(entry)]
    harmless = EQUIVALENT | VARIANTS
    unjudged = [name for name in DEFECTS | harmless if name not in outcomes()]
    yield from ("# Defects", "", NOTE.format("conformance/defects/ and docs/kill-matrix.json"))
    yield from paragraph(
        "Mistakes that people made in their GPT-2s, conversions and samplers. Each is an "
        "implementation of a few lines, and the suite is judged by them: a defect must fail the "
        "[requirement](requirements.md) that it names, and what is no mistake must fail none."
    )
    yield from paragraph(
        f"**{len(caught)} of {len(DEFECTS)} defects are caught, each by the requirement that it "
        f"names, and {_flagged(harmless)} of the {len(harmless)} entries that are no mistakes are "
        "flagged.**"
        + f" Not judged yet: {', '.join(f'`{name}`' for name in unjudged)}."
        * bool(unjudged)
    )
    yield from paragraph(
        "The whole matrix is [kill-matrix.json](kill-matrix.json). These commands make a page of "
        "it, judge the suite by two of its rows, and judge one row as if it were your "
        "implementation:"
    )
    yield from ("", "```bash", *_COMMANDS, "```")
    yield from paragraph("*From knowledge* means that no report was looked up.")
    yield ""
    yield from _defects_table(caught)
    for family, entries in _by_family().items():
        yield from ("", f"## {family}", "", _about(family))
        for entry in entries:
            yield from _defect(entry)
    for heading, (about, group) in HARMLESS.items():
        yield from ("", f"## {heading}", "", about)
        for entry in group.values():
            yield from _harmless(entry)
    yield ""
    yield from definitions(REQUIREMENTS, "requirements.md")


def _defects_table(caught: list[Entry]) -> Iterator[str]:
    yield "| | | entries | caught |"
    yield "|---|---|---:|---:|"
    for family, entries in _by_family().items():
        hits = sum(entry in caught for entry in entries)
        yield f"| [{family}](#{slug(family)}) | {_about(family)} | {len(entries)} | {hits} |"
    for heading, (about, group) in HARMLESS.items():
        yield f"| [{heading}](#{slug(heading)}) | {about} | {len(group)} | {_flagged(group)} |"


def _by_family() -> dict[str, list[Entry]]:
    families = {
        family: [entry for entry in DEFECTS.values() if entry.family == family]
        for family in FAMILIES
    }
    return {family: entries for family, entries in families.items() if entries}


def _about(family: str) -> str:
    module = importlib.import_module(f"conformance.defects.{family}")
    return text((module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "))


def _flagged(entries: Mapping[str, Entry]) -> int:
    return sum(bool(caught_by(entry)) for entry in entries.values())


def _entry(entry: Entry) -> Iterator[str]:
    yield from ("", f"### {entry.id}", "", text(entry.what), "")


def _source(entry: Entry) -> str:
    return f"- Source: {source(text(entry.source))}"


def _defect(entry: Entry) -> Iterator[str]:
    caught, named = caught_by(entry), str(entry.requirement)
    others = [name for name in caught if name != named]
    yield from _entry(entry)
    if entry.id not in outcomes():
        yield f"- Must be caught by: [{named}]; not judged yet"
    elif named not in caught:
        yield f"- **Not** caught by: [{named}]"
    else:
        yield f"- Caught by: [{named}]" + ("" if others else ", and no other")
    yield _source(entry)
    yield from folded(f"Also caught by {len(others)} more", others)


def _harmless(entry: Entry) -> Iterator[str]:
    yield from _entry(entry)
    if entry.requirement:
        yield f"- About: [{entry.requirement}]"
    if reported := caught_by(entry, VARIANT):
        yield f"- Reported by: {links(reported)}"
    if flagged := caught_by(entry):
        yield f"- **Flagged** by: {links(flagged)}"
    elif entry.id in outcomes():
        yield f"- Flagged by none of {len(outcomes()[entry.id])} requirements that were asked"
    else:
        yield "- Not judged yet"
    yield _source(entry)


HARMLESS = {
    "Equivalents": ("They look like mistakes and change nothing.", EQUIVALENT),
    "Variants": (
        "They do [as another source does](adapters.md#where-sources-disagree). The suite reports "
        "them, and does not fail them.",
        VARIANTS,
    ),
}
PAGES = {"requirements.md": requirements_page, "defects.md": defects_page}


def pages() -> dict[str, str]:
    """Return file name -> content."""
    return {name: "\n".join(lines()) + "\n" for name, lines in PAGES.items()}


def failures() -> str:
    """Return what each defect fails by itself, as JSON."""
    failed = {entry.id: caught_by(entry) for entry in DEFECTS.values() if entry.id in outcomes()}
    return json.dumps(failed, indent=1) + "\n"


def write(folder: Path = FOLDER) -> list[str]:
    """Write the pages that have changed. Return their names."""
    written = []
    for name, made in pages().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != made:
            path.write_text(made, encoding="utf-8")
            written.append(name)
    return written


if __name__ == "__main__":
    (FOLDER.parent / "conformance/defects/failures.json").write_text(failures(), encoding="utf-8")
    print("written:", ", ".join(write()) or "nothing, all pages are up to date")
