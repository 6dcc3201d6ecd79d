"""docs/tour.md shows what docs/make_tour.py made, and that says what changed. Nothing is trained here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from docs import make_tour
from docs.tour.runs import Runs
from docs.tour.stop import Stop, drawing

PAGE = make_tour.PAGE.read_text(encoding="utf-8")
FIGURES = make_tour.read_figures()


def test_the_stops_stand_on_the_page_in_their_order():
    assert re.findall(r"^<!-- (?!end of)(\w+) -->$", PAGE, re.MULTILINE) == list(make_tour.STOPS)
    assert list(FIGURES) == list(make_tour.STOPS)


@pytest.mark.parametrize("name", make_tour.STOPS)
def test_a_stop_has_words_of_its_own_and_the_picture_and_figures_that_were_made(name):
    words, _, below = PAGE.partition(f"<!-- {name} -->")
    assert len(words.rpartition("\n## ")[2].split()) > 30
    assert below.partition(f"<!-- end of {name} -->")[0].strip() == make_tour.block(name, FIGURES[name])
    assert FIGURES[name]["cpu_seconds"] < 600  # five minutes of two cores
    with Image.open(make_tour.PICTURES / f"{name}.png") as picture:
        assert (picture.mode, picture.width) == ("P", 960)


def test_the_pictures_are_small():
    sizes = {
        path.name: path.stat().st_size for path in make_tour.PICTURES.glob("*.*") if path.suffix != ".py"
    }
    assert {name: size for name, size in sizes.items() if name.endswith(".png") and size > 200_000} == {}
    assert {name: size for name, size in sizes.items() if size > 2_000_000} == {}
    assert sum(sizes.values()) < 4_000_000


def test_a_stop_that_is_not_there_is_answered_with_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_tour", "learning_ratos"])
    with pytest.raises(SystemExit):
        make_tour.main()
    said = capsys.readouterr().err.strip()
    assert said.startswith("There is no stop 'learning_ratos' on the tour: did you mean learning_rates")


def test_what_changed_is_said(monkeypatch, capsys, tmp_path: Path):
    loss = 0.5

    def one(runs: Runs) -> Stop:
        """One of them"""
        figure, axes = drawing()
        axes.plot([0, loss])
        return Stop(figure, {"loss": loss})

    def made(where: str) -> list[str]:
        make_tour.make("one", Runs(tmp_path), where)
        return [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]

    page = tmp_path / "tour.md"
    page.write_text("Look at it.\n<!-- one -->\n<!-- end of one -->\n", encoding="utf-8")
    monkeypatch.setattr(make_tour, "STOPS", {"one": one})
    for name, path in (("PICTURES", tmp_path), ("PAGE", page), ("FIGURES", tmp_path / "figures.json")):
        monkeypatch.setattr(make_tour, name, path)

    assert made("here") == ["picture: new", "loss: nothing → 0.5"]
    assert made("there") == ["picture: the same", "loss: 0.5, the same"]
    assert "loss **0.5**" in page.read_text()
    assert "<sub>here</sub>" in page.read_text()
    loss = 0.25
    picture, figure = made("there")
    assert re.fullmatch(r"picture: changed in \d+\.\d% of its pixels", picture)
    assert figure == "loss: 0.5 → 0.25"
    assert "<sub>there</sub>" in page.read_text()
