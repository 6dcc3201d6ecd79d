"""The README is short, says what the pages say, works as it stands, and is the same in both languages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def blocks(text: str, language: str = r"\w+") -> list[str]:
    """What stands in the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """All but the fenced blocks, and the line that leads to the other language."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^.*\]\(README(\.zh-CN)?\.md\).*$", "", text, flags=re.MULTILINE)


SAME = {
    "code": blocks,
    "links and pictures": lambda text: re.findall(r"\]\(([^)]+)\)", prose(text)),
    "headings": lambda text: [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)],
    "rows of tables": lambda text: [row.count("|") for row in re.findall(r"^\|.*", text, re.MULTILINE)],
    "figures": lambda text: [
        re.findall(r"\d[\d.,]*\d|\d", row) for row in re.findall(r"^\|.*", text, re.MULTILINE)
    ],
    "words of the command line": lambda text: sorted(re.findall(r"`[^`]+`", prose(text))),
}


@pytest.mark.parametrize("what", SAME)
def test_both_languages_have_the_same(what: str) -> None:
    assert SAME[what](README) == SAME[what](CHINESE)


@pytest.mark.parametrize("text", [README, CHINESE], ids=["English", "Chinese"])
def test_it_is_short(text: str) -> None:
    assert len(text.splitlines()) < 350


def test_every_figure_stands_on_the_page_that_it_links_to() -> None:
    rows = re.findall(r"^\|[^|]+\|([^|]+)\| \[.*\]\(([^)#]+)[^)]*\) \|$", README, re.MULTILINE)
    assert len(rows) > 5
    for figures, page in rows:
        known = re.findall(r"[\d.,]*\d", (ROOT / page).read_text(encoding="utf-8"))
        assert [figure for figure in re.findall(r"[\d.,]*\d", figures) if figure not in known] == []


def test_the_fifteen_lines_run_and_are_told_their_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [script] = blocks(README, "python")
    assert len([line for line in script.splitlines() if line]) <= 15
    monkeypatch.chdir(tmp_path)
    short = script.replace("max_epochs=5", "max_steps=20").replace(
        "diagnostics()", "diagnostics('none', budget=2)"
    )
    exec(short, {"__name__": "mine"})
    [file] = tmp_path.rglob("findings.json")
    worst = json.loads(file.read_text())[0]
    assert (worst["cause"], worst["level"]) == ("double-softmax", "fail")
    told = " ".join(blocks(README, "text")[-1].split())
    assert told == f"{worst['cause']}: {worst['message']} {worst['remedy']}"
