"""From a template to a page: one HTML file that needs nothing else."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitals.report.live import Live
from vitals.report.numbers import number
from vitals.report.record import LETTERS
from vitals.report.stations import WORDS, station_of


@dataclass(frozen=True)
class Column:
    """The head of a table's column."""

    title: str
    amount: bool = False
    """Whether it holds numbers, which stand at the right."""


def render(template: str, live: Live | None = None, script: str = "", **values: Any) -> str:
    """The page that `template`, an extension of `base.html`, makes of `values`, with the style sheet in it.
    `title` and `source`, what the page is made from, are among these; `live` is what a page says that is
    served and follows what it tells of. A browser runs no script but `script`, and that of live pages."""
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("vitals.report"), undefined=StrictUndefined, **options)
    environment.globals.update(WORDS=WORDS, station_of=station_of, labels=LETTERS)
    environment.filters["number"] = number

    def source(name: str) -> Markup:
        return Markup(environment.loader.get_source(environment, name)[0])  # type: ignore[union-attr]

    scripts = [source(name) for name in (script, "live.js" if live else "") if name]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    page = environment.get_template(template)
    return page.render(style=source("page.css"), scripts=scripts, hashes=hashes, live=live, **values)
