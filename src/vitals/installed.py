"""What code was installed, and is nobody's own."""

import site
import sys
import sysconfig
from functools import cache
from pathlib import Path

PACKAGES = frozenset({"site-packages", "dist-packages"})
"""Names of the folders in which installed packages lie."""


def is_installed(place: Path) -> bool:
    """Whether the code at `place`, a folder or a file, was installed, for this interpreter or, as in the
    layers that `uv run --with` makes, for another that it looks into."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    known = [*python, *site.getsitepackages(), site.getusersitepackages()]
    if not PACKAGES.isdisjoint(place.parts) or any(place.is_relative_to(each) for each in known):
        return True
    folders = [Path(each) for each in sys.path if each and place.is_relative_to(each)]
    return any(place.relative_to(each).parts[:1] in _put_into(each) for each in folders)


@cache
def _put_into(folder: Path) -> frozenset[tuple[str, ...]]:
    """The first names in `folder` of what an installer has put there, as `pip install --target` does beside
    what is somebody's own."""
    try:
        records = [file.read_text(encoding="utf-8") for file in folder.glob("*.dist-info/RECORD")]
    except (OSError, ValueError):
        return frozenset()
    files = (line.partition(",")[0] for record in records for line in record.splitlines())
    return frozenset(Path(file).parts[:1] for file in files if file)
