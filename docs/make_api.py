"""Pages of the programming interface, made of the docstrings: `python -m docs.make_api [folder]`.

Needs `pip install -e '.[docs]'`. A link between the pages that leads nowhere ends it with exit code 1.
"""

from __future__ import annotations

import re
import sys
from html import unescape
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from urllib.parse import unquote, urlsplit

import vitals

ROOMS = ("averaging", "checks", "diagnosis", "measures", "monitors", "writers")
FILES = ("causes", "errors", "findings", "history", "on_nonfinite", "presets", "recorder")
"""What somebody's own training, monitor, check or rule meets of the instrument."""
WITHIN = re.compile(
    r"vitals\.(checks\.(budget|chance|gradient_flow|page|setup_of_trainer)"
    r"|checks\.gradients\.(?!check$|result$|step_study$)\w+"
    r"|diagnosis\.(?!callback$|diagnose$|run$)\w+|averaging\.validation|writers\.trackers)$"
)
"""Modules that serve their neighbours in a room alone."""


def modules() -> list[str]:
    """The modules that have a page."""
    found = ["vitals", *(f"vitals.{name}" for name in FILES)]
    for room in ROOMS:
        package = import_module(f"vitals.{room}")
        inside = walk_packages(package.__path__, f"vitals.{room}.")
        found += [f"vitals.{room}", *(module.name for module in inside if not WITHIN.match(module.name))]
    return sorted(found)


def broken(folder: Path) -> list[str]:
    """The links of the pages in `folder` to each other that lead nowhere, each with its page."""
    texts = {page.resolve(): page.read_text(encoding="utf-8") for page in sorted(folder.rglob("*.html"))}
    pages = {page: re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL) for page, text in texts.items()}
    anchors = {page: set(re.findall(r'\sid="([^"]+)"', text)) for page, text in pages.items()}
    found = []
    for page, text in pages.items():
        for link in dict.fromkeys(map(unescape, re.findall(r'<a\s[^>]*?href="([^"]+)"', text))):
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            there = target in pages and (not parts.fragment or unquote(parts.fragment) in anchors[target])
            if not (parts.scheme or there):
                found.append(f"{page.relative_to(folder.resolve())}: {link}")
    return found


def main(folder: str = "build/api") -> int:
    import pdoc

    for name in vitals.__all__:  # they are imported when first asked for
        setattr(vitals, name, getattr(vitals, name))
    pdoc.render.configure(docformat="google")
    shown = (f"vitals.{name}" for name in (*ROOMS, *FILES))
    pdoc.pdoc("vitals", *shown, f"!{WITHIN.pattern}", output_directory=Path(folder))
    if lost := broken(Path(folder)):
        print("\n".join(lost), f"{len(lost)} links lead nowhere", sep="\n")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
