"""The pages of a sweep and of an ensemble in a real browser: quiet, whole, on a phone, in the dark."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from browser import needs_browser, show
from rich.console import Console

from vitals.ensembles.page import page as ensemble_page
from vitals.ensembles.scores import EnsembleResult, Scores, Size
from vitals.metric import Metric
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.report import report

pytestmark = needs_browser
EVIL = "<script>console.log('broken in')</script>"


def write_sweep(path: Path, count: int, epochs: int) -> Path:
    """A sweep of `count` jobs, some of them stopped early, the first failed; returns its page."""
    folder = SweepFolder(path)
    space = ["optimizer.lr=tag(log,interval(1e-6,1e1))", "network.dropout=interval(0,1)"]
    folder.write_record([*space, "optimizer=adam,sgd"], "scripts/train.py", Metric("accuracy/val", "max"))
    folder.add_to_record(space=space, jobs=count + 1)
    for number in range(count):
        run = path / f"{number}_job"
        run.mkdir()
        rate = 10 ** (1 - 7 * number / count)
        words = [f"optimizer.lr={rate:.4g}", f"network.dropout={number % 7 / 7:.3f}"]
        words.append(f"optimizer={('adam', 'sgd', 'x' * 90)[number % 3]}")
        (run / "job.json").write_text(json.dumps({"words": words}))
        best = 0.9 - 0.8 * number / count
        rows = [f"{epoch},{best * (1 - 0.5**epoch)}" for epoch in range(1, epochs + 1)] if number else []
        (run / "metrics.csv").write_text("\n".join(["epoch,accuracy/val", *rows]))
        stopped = {"stopped_early": "hopeless: below the median"} if number % 5 == 3 else {}
        error = None if number else EVIL
        RunFolder(run).write_status("finished" if number else "failed", error=error, **stopped)
    report(folder, Console(quiet=True))
    return path / "report.html"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "sweep", 12, 4)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = [Scores(accuracy, 0.5, 0.02) for accuracy in (0.8, 0.7, 0.75)]
    sizes = [Size(count, 3, 0.7 + 0.05 * count, 0.69, 0.87, 0.8, 0.5) for count in (1, 2, 3)]
    disagreement = 0.2 * (1 - torch.eye(3))
    names = ["1_lr-0.1", EVIL, "m" * 120]
    result = EnsembleResult(
        "test", 100, names, names, [], scores, Scores(0.85, 0.4, 0.01), 0.84, sizes, disagreement, 9.0
    )
    path = tmp_path_factory.mktemp("ensembles") / "ensemble.html"
    path.write_text(ensemble_page(result))
    return path


@pytest.mark.parametrize(("name", "charts"), [("sweep", 8), ("ensemble", 2)])
def test_the_page_is_whole_quiet_and_fits_a_phone_in_the_dark(
    name: str, charts: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page = request.getfixturevalue(name)
    script = """
      const svgs = [...page.querySelectorAll("figure svg")];
      const named = [...page.querySelectorAll("*")].flatMap((element) =>
        ["src", "href", "xlink:href"].map((key) => element.getAttribute(key)));
      return {
        charts: svgs.filter((svg) => svg.querySelectorAll("path, image, text").length > 5).length,
        foreign: named.filter((url) => url && !/^(data:|#)/.test(url)),
        sorted: [...page.querySelectorAll("#jobs thead th")].map((head, column) => [1, 2].map(() => {
          head.querySelector("button").click();
          return [...page.querySelectorAll("#jobs tbody tr")].map((row) => row.cells[column].textContent);
        })),
        wide: page.documentElement.scrollWidth - page.documentElement.clientWidth,
        ground: view.getComputedStyle(page.querySelector(".card")).backgroundColor,
        text: page.body.textContent,
      };"""
    shown = show(page, tmp_path, script, width=340, dark=True)
    seen = shown.seen
    assert (seen["charts"], seen["foreign"], shown.console, seen["wide"]) == (charts, [], [], 0)
    for ways in seen["sorted"]:  # by any column, either way, and what is missing comes last
        known = [[sortable(cell) for cell in cells if cell != "–"] for cells in ways]
        assert [cells[: len(there)].count("–") for cells, there in zip(ways, known, strict=True)] == [0, 0]
        assert sorted(known) == sorted([sorted(known[0]), sorted(known[0], reverse=True)])
    assert seen["ground"] == "rgb(23, 27, 34)"
    assert EVIL in seen["text"]


def sortable(cell: str) -> tuple[float, str]:
    """A cell as the page orders it: numbers by their size, words by the alphabet."""
    number = re.match(r"-?[\d.]+(e-?\d+)?", cell)
    return (float(number[0]), "") if number else (math.inf, cell)


def test_the_page_of_a_large_sweep_stays_below_three_megabytes(tmp_path: Path) -> None:
    assert write_sweep(tmp_path / "sweep", 400, 200).stat().st_size < 3_000_000
