"""What code was installed, and is nobody's own."""

import site
import sysconfig
from pathlib import Path

PACKAGES = frozenset({"site-packages", "dist-packages"})
"""Names of the folders in which installed packages lie."""


def is_installed(place: Path) -> bool:
    """Whether the code at `place`, a folder or a file, was installed, for this interpreter or, as in the
    layers that `uv run --with` makes, for another that it looks into."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    known = [*python, *site.getsitepackages(), site.getusersitepackages()]
    return not PACKAGES.isdisjoint(place.parts) or any(place.is_relative_to(each) for each in known)
