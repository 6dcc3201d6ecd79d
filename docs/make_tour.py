"""Remake the pictures of docs/tour.md from fixed seeds, and say what changed.

    python -m docs.make_tour data.root=<images>                   # all of them
    python -m docs.make_tour learning_rates data.root=<images>    # some of them
    python -m docs.make_tour --list

Each stop is a function in docs/tour/ (docs/tour/stop.py says what it returns). Its picture becomes
docs/tour/<stop>.png; its key figures with commit, date and machine stand in docs/tour/figures.json, and from
there, with picture and command, in the stop's block of docs/tour.md. The words around the blocks are written
by hand. Without `data.root` CIFAR-10 is downloaded.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import where_and_when
from docs.tour import (
    batches,
    before_learning,
    decays,
    filters,
    learning_rates,
    optimizers,
    overfitting,
    search,
    together,
)
from docs.tour.runs import Runs
from docs.tour.stop import Stop, styled, write_pictures
from vitals.command_line import answers_mistakes
from vitals.errors import UserError, did_you_mean

PICTURES = Path(__file__).parent / "tour"
FIGURES = PICTURES / "figures.json"
PAGE = Path(__file__).parent / "tour.md"
STOPS: dict[str, Callable[[Runs], Stop]] = {
    stop.__name__: stop
    for stop in (
        before_learning.difference_steps,
        before_learning.planted_bug,
        before_learning.loss_at_chance,
        learning_rates.learning_rates,
        batches.two_batches,
        overfitting.overfitting,
        learning_rates.update_ratios,
        before_learning.initializations,
        filters.first_layer,
        optimizers.optimizers,
        decays.decays,
        search.random_and_grid,
        search.edge_of_range,
        together.averaging,
        together.ensemble,
    )
}
"""In the order of the course."""


def make(name: str, runs: Runs, measured: str) -> None:
    """Remake a stop's picture, figures and block, and print what changed."""
    print(f"{name}: {title(name)}", flush=True)
    runs.asked.clear()
    start = time.process_time()
    with styled():
        stop = STOPS[name](runs)
    known = read_figures()
    before = known.get(name, {})
    old = before.get("figures", {})
    new = {key: float(f"{value:.3g}") for key, value in stop.figures.items()}
    if lost := [key for key, value in new.items() if not math.isfinite(value)]:
        raise UserError(f"{name}: not finite, so no figure to write: {'; '.join(lost)}.")
    with styled():
        picture = write_pictures(stop, PICTURES / f"{name}.png")
    print(f"  picture: {picture}")
    for key in dict.fromkeys([*old, *new]):
        was, is_ = (f"{side[key]:g}" if key in side else "nothing" for side in (old, new))
        print(f"  {key}: {f'{is_}, the same' if was == is_ else f'{was} → {is_}'}")
    if picture == "the same" and old == new and stop.text == before.get("text", ""):
        return
    seconds = round(time.process_time() - start + sum(runs.asked.values()))
    known[name] = {"figures": new, "runs": list(runs.asked), "cpu_seconds": seconds, "measured": measured}
    if stop.text:
        known[name]["text"] = stop.text
    in_order = {stop: known[stop] for stop in STOPS if stop in known}
    FIGURES.write_text(json.dumps(in_order, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(with_block(PAGE.read_text(encoding="utf-8"), name, in_order[name]), encoding="utf-8")


def read_figures() -> dict[str, dict[str, Any]]:
    """The stops' key figures, what they cost and where and when they were measured."""
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else {}


def title(name: str) -> str:
    """Of a stop: the first line of what its function says of itself."""
    return (STOPS[name].__doc__ or name).strip().splitlines()[0]


def block(name: str, entry: Mapping[str, Any]) -> str:
    """A stop's part of docs/tour.md that is not written by hand: picture, command and figures."""
    told = "; ".join(f"{key} **{value:g}**" for key, value in entry["figures"].items())
    moving = (PICTURES / f"{name}.gif").is_file()
    pictures = [f"![{title(name)}](tour/{name}.{kind})" for kind in (["gif"] if moving else []) + ["png"]]
    images = " data.root=<images>" if any("data.root=" in run for run in entry["runs"]) else ""
    runs = "\n".join(entry["runs"])
    return "\n\n".join(
        [
            *pictures,
            *([f"```text\n{entry['text']}\n```"] if "text" in entry else []),
            f"Measured: {told}.",
            f"```bash\npython -m docs.make_tour {name}{images}  # {entry['cpu_seconds']} CPU seconds\n```",
            *([f"<details><summary>its runs</summary>\n\n```bash\n{runs}\n```\n</details>"] if runs else []),
            f"<sub>{entry['measured']}</sub>",
        ]
    )


def with_block(page: str, name: str, entry: Mapping[str, Any]) -> str:
    """The page with the stop's block between its markers, which are there already."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    content, count = re.subn(
        f"{start}.*?{end}", lambda _: f"{start}\n{block(name, entry)}\n{end}", page, flags=re.DOTALL
    )
    if not count:
        raise UserError(f"docs/tour.md has no place for {name}: the line {start}, and below it {end}.")
    return content


@answers_mistakes()
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m docs.make_tour",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="stop | data.root=<images>")
    parser.add_argument("--list", action="store_true", help="the stops and what they show")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for the runs, to take them from there again"
    )
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:24}{title(name)}" for name in STOPS))
        return
    roots = [word.partition("=")[2] for word in arguments.words if word.startswith("data.root=")]
    names = [word for word in arguments.words if not word.startswith("data.root=")]
    for name in names:
        if name not in STOPS:
            raise UserError(f"There is no stop {name!r} on the tour: {did_you_mean(name, STOPS)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep.absolute() if arguments.keep else Path(scratch)
        runs = Runs(folder, str(Path(roots[-1]).expanduser().absolute()) if roots else None)
        measured = where_and_when()  # while nothing is changed yet
        for name in names or STOPS:
            make(name, runs, measured)


if __name__ == "__main__":
    main()
