"""Every link of the pages leads somewhere, and every file and program that they name is there."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
WRITTEN = chain(ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"), (ROOT / "benchmarks").rglob("*.md"))
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in WRITTEN)
FOLDERS = "benchmarks|configs|docs|scripts|src|tests"


def without_code(text: str) -> str:
    """The page without its blocks of code; a `#` in them begins no heading, and a bracket no link."""
    return re.sub(r"^( *)(```+|~~~+)[^\n]*\n.*?^\1\2 *$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
    """What the links and pictures of a page lead to, in Markdown and in HTML."""
    prose = re.sub(r"`[^`\n]+`", "code", without_code(text))
    found = re.findall(r"\]\(\s*<?([^)\s>]*)>?(?:\s+[\"'][^\"']*[\"'])?\s*\)", prose)
    found += re.findall(r"^\[[^\]]+\]:\s*<?(\S+?)>?$", prose, flags=re.MULTILINE)
    return found + re.findall(r"<(?:a|img|source)\s[^>]*?(?:href|src|srcset)=\"([^\"]*)\"", prose)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them: lower case, hyphens for blanks, other signs left out."""
    found: set[str] = set(re.findall(r"<[^>]+\s(?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", without_code(text), flags=re.MULTILINE):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        words = re.sub(r"(?<!\w)_|_(?!\w)", "", words) if "`" not in words else words
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        name, times = slug, 0
        while name in found:
            times += 1
            name = f"{slug}-{times}"
        found.add(name)
    return found


def fault(page: Path, link: str) -> str:
    """What is wrong with a link; empty where nothing is."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        well_formed = parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
        return "" if well_formed else "no https address"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.exists():
        return "no such file"
    if not target.is_relative_to(ROOT):
        return "outside the repository"
    if parts.fragment and unquote(parts.fragment) not in anchors(target.read_text(encoding="utf-8")):
        return "no such heading"
    return ""


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    found = links(page.read_text(encoding="utf-8"))
    assert {link: said for link in found if (said := fault(page, link))} == {}


@pytest.mark.parametrize("name", PAGES)
def test_every_file_and_program_that_is_named_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    files = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text)
    files += re.findall(rf"python ((?:{FOLDERS})/[\w./-]+\.py)", text)
    modules = re.findall(r"python -m ((?:benchmarks|docs)[\w.]*)", text)
    files += [module.replace(".", "/") for module in modules]
    of_the_page = re.findall(r"^`([\w./-]+)`\n\n```", text, flags=re.MULTILINE)  # which it has in full
    there = {file for file in files if (ROOT / file).exists() or (ROOT / f"{file}.py").exists()}
    assert sorted({*files} - there - {*of_the_page}) == []


def test_the_faults_that_a_link_can_have_are_seen() -> None:
    page = ROOT / "docs" / "page.md"
    title = "# 一页 `a_b` and [more](course.md)"
    lines = (title, "## Twice", "## Twice", "```", "# none", "[x](none.md)", "```")
    text = "\n".join((*lines, '[y](z.md "t")'))
    assert anchors(text) == {"一页-a_b-and-more", "twice", "twice-1"}
    assert links(text) == ["course.md", "z.md"]
    assert fault(page, "course.md#the-course-technique-by-technique") == ""
    for link in ("none.md", "course.md#none", "http://example.com", "https://example", "https:///x"):
        assert fault(page, link), link
