"""The page in a real browser: quiet, complete, in order, on a phone, in the dark, and safe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser import console_of, needs_browser, show
from made_runs import layer_names, write_config, write_history, write_metrics, write_predictions, write_run

from vitals.findings import Finding, write_findings
from vitals.report.page import comparison_name, make_report, write_runs
from vitals.report.record import RunRecord

pytestmark = needs_browser

ORDER = ["gradients", "before", "loss", "accuracy", "updates", "first-layer", "optimizer", "decay", "search"]
ORDER += ["averages", "mistakes", "configuration", "reproduce"]
EVIL = "<img src=x onerror=\"console.log('broken in')\"></text><script>console.log('broken in')</script>"
ODD_NAMES = [EVIL, "猫 & <b>犬</b>", "$x_1^{2}$", "a" * 300, "quo\"te'd", "tab\tnew\nline \x07"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_report(write_run(tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose names are as unlucky as can be."""
    folder = tmp_path_factory.mktemp("runs") / "<i>odd & long 犬"
    folder.mkdir()
    write_config(folder, name="'<script>console.log(1)</script>'")
    write_metrics(folder)
    write_history(folder, layers=ODD_NAMES)
    write_predictions(folder, ODD_NAMES)
    write_findings(
        [Finding("dead-relu", "fail", EVIL, EVIL, "w" * 400, 0.9, 0.5, 3, 0.1)], folder / "findings.json"
    )
    return make_report(folder)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    other = write_run(folder / ("second-" + "b" * 90), layers=layer_names(3))
    folders = [write_run(folder / "first"), other]
    return write_runs([RunRecord.read(each) for each in folders], folders[0] / comparison_name(folders))


@pytest.mark.parametrize("name", ["page", "odd_page", "comparison"])
def test_it_is_quiet_asks_nothing_of_any_network_and_fits_a_phone(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = request.getfixturevalue(name)
    script = """
      const asked = view.performance.getEntriesByType("resource").map((entry) => entry.name);
      const named = [...page.querySelectorAll("*")].flatMap((element) =>
        ["src", "href", "xlink:href", "srcset", "action"].map((key) => element.getAttribute(key)));
      page.querySelectorAll("details").forEach((part) => { part.open = true; });
      return {
        foreign: [...asked, ...named].filter((url) => url && !/^(data:|#)/.test(url)),
        wide: page.documentElement.scrollWidth,
        room: page.documentElement.clientWidth,
      };"""
    shown = show(path, tmp_path, script, width=340)
    assert (shown.seen["foreign"], shown.console) == ([], [])
    assert shown.seen["wide"] <= shown.seen["room"] <= 340
    assert not re.search(r"@import|url\(\s*[\"']?(?!#)", path.read_text(encoding="utf-8"))


def test_a_run_fits_three_screens_in_the_order_of_the_course_and_opens_to_every_picture(
    page: Path, tmp_path: Path
) -> None:
    assert console_of(page, tmp_path) == []  # from disk, too
    script = """
      const high = page.documentElement.scrollHeight;
      const seen = (svg) => svg.checkVisibility() && svg.getBoundingClientRect().width > 200;
      const drawn = (svg) => svg.querySelectorAll("path, image, text").length > 5;
      const count = () => Object.fromEntries([...page.querySelectorAll("section.station")].map((part) =>
        [part.id, [...part.querySelectorAll("figure svg")].filter(seen).filter(drawn).length]));
      const first = count();
      page.querySelectorAll("details").forEach((part) => { part.open = true; });
      const images = [...page.querySelectorAll("img")];
      return {
        high, first, all: count(),
        parts: [...page.querySelectorAll("main section")].map((part) => part.id),
        verdicts: [...page.querySelectorAll(".verdicts a")].map((link) => link.getAttribute("href").slice(1)),
        images: images.length, broken: images.filter((image) => !image.naturalWidth).length,
        labels: [...page.querySelectorAll("figure svg")].map((svg) => svg.querySelectorAll("text").length),
      };"""
    seen = show(page, tmp_path, script, width=1280).seen
    assert seen["high"] <= 3 * 900
    assert seen["verdicts"] == ORDER[:10]
    there = [part for part in ORDER if part != "search"]  # a single run is none of a search: folded away
    assert seen["parts"] == [*("verdicts", "findings"), *there[:10], "apart", "search", *there[10:]]
    first = {"loss": 3, "accuracy": 2, "updates": 3}
    assert {key: count for key, count in seen["first"].items() if count} == first
    expected = {"loss": 4, "accuracy": 2, "updates": 8, "optimizer": 2, "averages": 2, "mistakes": 1}
    assert {key: count for key, count in seen["all"].items() if count} == expected
    assert (seen["images"], seen["broken"]) == (2 + 24, 0)
    assert min(seen["labels"]) >= 4


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_lines_of_the_charts_stand_out_from_the_ground(
    page: Path, dark: bool, tmp_path: Path
) -> None:
    script = """
      const ground = view.getComputedStyle(page.querySelector(".card")).backgroundColor;
      const style = (list, key) => [...new Set(list.map((element) => view.getComputedStyle(element)[key]))];
      return {
        ground,
        words: style([...page.querySelectorAll("figure text, p, dd, dt, li, td")], "color")
          .concat(style([...page.querySelectorAll("figure text")], "fill")),
        lines: style([...page.querySelectorAll("figure path[style*='var(--c']")], "stroke"),
      };"""
    seen = show(page, tmp_path, script, dark=dark).seen
    assert (luminance(seen["ground"]) < 0.1) == dark
    assert min(contrast(seen["ground"], colour) for colour in seen["words"]) >= 4.5
    assert min(contrast(seen["ground"], colour) for colour in seen["lines"] if colour != "none") >= 3


def test_names_are_shown_as_they_are_and_never_run(odd_page: Path, tmp_path: Path) -> None:
    script = """return {
      text: page.body.textContent,
      foreign: page.querySelectorAll("script, img[onerror], b:not([aria-hidden]), i:not([class])").length,
    };"""
    shown = show(odd_page, tmp_path, script)
    assert shown.seen["foreign"] == 0
    for part in ("<img src=x onerror=", "猫 & <b>犬</b>", "$x_1^{2}$", "<i>odd & long 犬"):
        assert part in shown.seen["text"]
    assert shown.console == []


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
