"""Matplotlib's figures as SVG that follows the page: its fonts, its width, its light or dark colours. A
colour in a figure is a token, which becomes a variable of the page's style sheet; text stays text."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from vitals.report.numbers import number, power_of_ten

WIDTH = 400.0
"""Of every figure, in the SVG's units: what fits a phone, so that letters keep their size there."""

_NAMES = ("ink", "muted", "line", "surface", "fail", "good")
SERIES = tuple(f"c{index}" for index in range(1, 7))
"""Colours that tell series apart, also for the colour-blind (after Okabe and Ito)."""
SEQUENCE = tuple(f"s{index}" for index in range(1, 7))
"""Colours that stand for an order, from the first to the last."""
TOKENS = {name: f"#0b{index:04x}" for index, name in enumerate((*_NAMES, *SERIES, *SEQUENCE), start=0xA1)}
"""What to give matplotlib for a colour of the page."""

_TOKEN = re.compile("|".join(TOKENS.values()))
_VARIABLES = {colour: f"var(--{name})" for name, colour in TOKENS.items()}

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": TOKENS["ink"],
    "font.size": 10.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": TOKENS["line"],
    "axes.labelcolor": TOKENS["muted"],
    "axes.labelsize": 10.5,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titley": 1.0,  # else every axis is measured to see whether a title would be in its way
    "axes.unicode_minus": True,
    "axes.xmargin": 0.02,
    "grid.color": TOKENS["line"],
    "grid.linewidth": 0.7,
    "xtick.color": TOKENS["line"],
    "ytick.color": TOKENS["line"],
    "xtick.labelcolor": TOKENS["muted"],
    "ytick.labelcolor": TOKENS["muted"],
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.major.pad": 6.0,
    "ytick.major.pad": 5.0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.markersize": 4.0,
    "path.simplify_threshold": 0.25,
}


@dataclass(frozen=True)
class Key:
    """One entry of a chart's legend."""

    colour: str
    """A name from `TOKENS`."""
    label: str
    kind: Literal["line", "dashed", "dotted", "band", "dot"] = "line"


@dataclass(frozen=True)
class Chart:
    """A drawn figure with its words."""

    title: str
    svg: Markup
    keys: Sequence[Key] = ()
    caption: str = ""
    new_row: bool = False
    """Whether it stands at the left, with what comes next beside it."""


def chart(
    name: str,
    title: str,
    paint: Callable[..., None],
    keys: Sequence[Key] = (),
    caption: str = "",
    label: str = "",
    height: float = 236.0,
    margins: tuple[float, float, float, float] = (46.0, 10.0, 8.0, 36.0),
    rows: Sequence[float] = (1.0,),
    new_row: bool = False,
) -> Chart:
    """The chart whose axes `paint` draws on: one, or several below each other with heights as `rows` has
    them. `name` is unique on the page, and the same name and figure give the same SVG; `label`, by default
    the title, says what it shows for those who cannot see it. The height and the `margins`, left, right, top
    and bottom, are in SVG units."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a glyph that matplotlib's font lacks; the page's has it
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        left, right, top, bottom = margins
        figure.subplots_adjust(
            left / WIDTH, bottom / height, 1 - right / WIDTH, 1 - top / height, hspace=0.16
        )
        paint(*figure.subplots(len(rows), sharex=True, height_ratios=rows, squeeze=False)[:, 0])
        for axes in figure.axes:
            _label_twice(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = Markup(_themed(buffer.getvalue(), label or title))
    return Chart(title, svg, keys, caption, new_row)


def _label_twice(axes: Axes) -> None:
    """See to it that an axis of numbers bears two labels at least: one alone gives no scale."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if isinstance(axis.get_major_locator(), FixedLocator | NullLocator):
            continue  # names, or none on purpose
        low, high = sorted((low, high))
        for bins in range(3, 9):
            places = [place for place in axis.get_majorticklocs() if low <= place <= high]
            if len({axis.get_major_formatter()(place) for place in places}) > 1:
                break
            axis.set_major_locator(MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]))
            if axis.get_scale() == "log" or len(places) > 1:
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.7g}".replace("-", "−")))


def _themed(svg: str, label: str) -> str:
    """The `<svg>` element alone, with the page's colours and fonts, its numbers to a tenth."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head = f'role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", lambda found: f"<svg {found[1]} {head}", svg)
    svg = svg.replace("xlink:href", "href")
    svg = _TOKEN.sub(lambda match: _VARIABLES[match.group()], svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    used = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match.group() if match.group(1) in used else "", svg)
    tenths = partial(re.sub, r"(?<=[\s\"(,-])(\d+\.\d)\d+", r"\1")
    svg = re.sub(r"<(?:path|use|text) [^>]*>", lambda tag: tenths(tag.group()), svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def color(name: str) -> str:
    """What to give matplotlib for the page's colour `name`."""
    return TOKENS[name]


def blend(name: str, alphas: np.ndarray) -> np.ndarray:
    """RGBA bytes, H×W×4, of one colour at the opacities `alphas` (H×W, from 0 to 1), as part of a figure.

    A picture cannot follow the page, so the colour is one that can be seen on white and on black.
    """
    pixels = np.empty((*alphas.shape, 4), dtype=np.uint8)
    pixels[..., :3] = {"heat": (45, 125, 190), "alarm": (222, 105, 30)}[name]
    pixels[..., 3] = np.round(255 * np.clip(np.nan_to_num(alphas), 0, 1))
    return pixels


def epochs_below(axes: Axes, label: str = "epochs") -> None:
    """A few round numbers on the x-axis, and what they count."""
    plain_numbers(axes, lambda value: number(round(value, 9)), 6, along="x")
    axes.set_xlabel(label, loc="right", labelpad=3)


def plain_numbers(
    axes: Axes, write: Callable[[float], str] = number, ticks: int = 5, along: Literal["x", "y"] = "y"
) -> None:
    """A few round numbers on a linear axis."""
    axis = axes.yaxis if along == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(round(value, 12))))


def percentages(axes: Axes) -> None:
    """A linear y-axis of shares, as percentages."""
    plain_numbers(axes, lambda value: f"{100 * value:g}%")


def log_numbers(axes: Axes, decades: float = 0.2, along: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis of what has been drawn: powers of ten, or where there are fewer than two 1, 2 and 5
    times them. It spans so many `decades` at least, so that what is level looks so."""
    (axes.set_yscale if along == "y" else axes.set_xscale)("log", nonpositive="mask")
    axis = axes.yaxis if along == "y" else axes.xaxis
    low, high = axes.get_ylim() if along == "y" else axes.get_xlim()
    if not (0 < low < high < np.inf):
        low, high = 0.1, 1.0
    missing = decades - np.log10(high / low)
    if missing > 0:
        low, high = low / 10 ** (missing / 2), high * 10 ** (missing / 2)
    axes.set(**{f"{along}lim": (low, high)})
    narrow = np.floor(np.log10(high)) - np.ceil(np.log10(low)) < 1
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=7))
    axis.set_minor_locator(NullLocator())
    write = number if narrow else power_of_ten
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def printable(text: str) -> str:
    """`text` without control characters, which SVG does not know."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]", "�", text)
