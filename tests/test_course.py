"""docs/course.md speaks of the code as it is, and the code of sections that docs/course.md has."""

from __future__ import annotations

import ast
import contextlib
import re
from functools import cache
from pathlib import Path

import pytest

from vitals.report.stations import STATIONS

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "docs" / "course.md"
_parts = re.split(r"^##+ (.+)\n", COURSE.read_text(encoding="utf-8"), flags=re.MULTILINE)
SECTIONS = dict(zip(_parts[1::2], _parts[2::2], strict=True))


def links(text: str) -> list[Path]:
    """What the relative links in `text` lead to."""
    found = re.findall(r"\]\(([^)#]+)\)", text)
    return [(COURSE.parent / link).resolve() for link in found if "://" not in link]


@cache
def constants(file: Path) -> dict[str, object]:
    """The numbers among a module's constants, by name."""
    found: dict[str, object] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        [target] = node.targets if isinstance(node, ast.Assign) else [node.target]
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        for name, value in pairs:
            if isinstance(name, ast.Name):
                with contextlib.suppress(ValueError):
                    found[name.id] = ast.literal_eval(value)
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_every_threshold_that_a_section_names_is_that_of_a_file_it_links_to(section: str) -> None:
    text = SECTIONS[section]
    quoted = re.findall(r"`([A-Z][A-Z_]+) = ([^`]+)`", text)
    known = [
        (name, value)
        for file in links(text)
        if file.suffix == ".py" and file.exists()
        for name, value in constants(file).items()
    ]
    assert [(name, value) for name, value in quoted if (name, ast.literal_eval(value)) not in known] == []


def test_every_section_that_a_file_refers_to_exists():
    cited: dict[str, str] = {}
    for folder in ("src", "tests", "configs", "benchmarks"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".md", ".html") and file != Path(__file__):
                words = " ".join(file.read_text(encoding="utf-8").split())
                for title in re.findall(r'docs/course\.md, \\?"([^"\\]+)\\?"', words):
                    cited[title] = str(file.relative_to(ROOT))
    cited.pop("{station.course}")
    cited |= {station.course: "report/stations.py" for station in STATIONS}
    assert {title: file for title, file in cited.items() if title not in SECTIONS} == {}
