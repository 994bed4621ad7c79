"""The pages of the documentation are true: their code runs, their links work, none is stale."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.shared.documentation import FENCED, INLINE, PAGES, ROOT, blocks, prose
from tests.shared.documented_commands import BUILD, furnish

GENERATED = ("docs/requirements.md", "docs/defects.md")


# Python blocks.


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page != "README.md"]
)
def test_the_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """test_readme.py runs the blocks of the README; test_command.py judges the pages' adapter."""
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
    """Return the anchor that a code host and MyST give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")


def anchors(text: str) -> list[str]:
    headings = re.findall(r"^#+ (.*?) *$", FENCED.sub("", text), re.M)
    return [slug(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)) for heading in headings] + re.findall(
        r'<a id="(.*?)"', text
    )


def links(page: str) -> Iterator[str]:
    text = INLINE.sub("`", prose(page))
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
def test_links_work(page: str) -> None:
    assert sorted(set(broken(page))) == []


@pytest.mark.parametrize(
    "link", ["nowhere.md", "adapters.md#nowhere", "#nowhere", "../../outside.md", "../nowhere.py"]
)
def test_a_broken_link_is_found(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "docs/index.md"
    monkeypatch.setitem(
        PAGES, page, f"{PAGES[page]}\n[a](https://example.org) [b]({link}) [c](adapters.md)\n"
    )
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
    # A changelog repeats the same headings for every version.
    assert page == "CHANGELOG.md" or len(found) == len(set(found)), sorted(
        {a for a in found if found.count(a) > 1}
    )


def test_every_page_is_in_the_contents() -> None:
    contents = re.search(r"```{toctree}(.*?)```", PAGES["docs/index.md"], re.S)
    assert contents
    listed = set(contents[1].split()) - {":hidden:"}
    assert listed == {Path(page).stem for page in PAGES if page.startswith("docs/")} - {"index"}


# Generated pages.


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    from docs.generate import pages

    return pages()


@pytest.mark.parametrize("page", GENERATED)
def test_generated_pages_match_the_code(page: str, made: dict[str, str]) -> None:
    assert PAGES[page] == made[Path(page).name], f"{page} is stale: python docs/generate.py"


def test_entries_and_requirements_are_listed_and_link_to_each_other(
    made: dict[str, str],
) -> None:
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
        assert (
            f"[{entry.id}]"
            in section(requirements, str(entry.requirement)).split("Must catch: ")[1].split("\n")[0]
        )
        assert f"aught by: [{entry.requirement}]" in section(defects, entry.id)


def section(page: str, heading: str) -> str:
    return page.split(f"\n### {heading}\n")[1].split("\n### ")[0]


def test_the_kill_matrix_has_the_entries_and_requirements_of_the_code() -> None:
    from conformance.kill_matrix.matrix import ENTRIES
    from conformance.requirements import REQUIREMENTS

    matrix = json.loads((ROOT / "docs/kill-matrix.json").read_text(encoding="utf-8"))
    again = "measure it again: pytest conformance/ --defects --defects-report docs/kill-matrix.json"
    assert [entry["id"] for entry in matrix["entries"]] == list(ENTRIES), again
    assert [requirement["id"] for requirement in matrix["requirements"]] == list(REQUIREMENTS), (
        again
    )
    assert matrix["problems"] == []


# The site.


def test_the_reference_has_every_public_name() -> None:
    import gpt2ref

    listed = re.findall(
        r"^\.\. (?:auto)?(?:function|class|exception|data):: (\w+)",
        PAGES["docs/reference.md"],
        re.M,
    )
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
