"""The page about a run, or about several side by side: see `vitals.report.page`."""

import gc
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitals.errors import one_line


def write_report(folder: Path, status: Mapping[str, Any] | None = None) -> Path | None:
    """The page of a run that has ended: its path, or None and a warning that says why it could not be made.

    A page takes nothing from the training before it.
    """
    collects = gc.isenabled()
    gc.disable()  # the many small parts of figures would have all that torch has loaded searched again
    try:
        from vitals.report.page import make_report  # takes a second, which the start of a run can do without

        return make_report(folder, status)
    except Exception as error:
        log, reason = logging.getLogger(__name__), one_line(error)
        log.warning("The report could not be made: %s: %s", type(error).__name__, reason)
        log.info("the report could not be made", exc_info=error)
        return None
    finally:
        if collects:
            gc.enable()
