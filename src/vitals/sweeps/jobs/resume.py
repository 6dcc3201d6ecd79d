"""Continue a sweep: its own command again, for what is missing or failed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vitals.errors import UserError
from vitals.sweeps.jobs.folder import SweepFolder

MAY_CHANGE = ("launcher", "search.trials=")


def words_of_sweep(arguments: Sequence[str]) -> list[str]:
    """The words that start a sweep again.

    Args:
        arguments: the words of the command line: `resume_sweep=<folder>`, and what may differ from last time.

    Raises:
        UserError: if there is no sweep, or a word would change its jobs.
    """
    given = [word for word in arguments if word.startswith("resume_sweep=")]
    path = given[-1].partition("=")[2].strip("'\"")
    folder = SweepFolder.existing(path, "resume_sweep")
    record = folder.read_record()
    if not record:
        raise UserError(
            f"resume_sweep={path}: {folder.record} is missing or damaged, which says the command."
        )
    further = [word for word in arguments if word not in given]
    for word in further:
        if not word.startswith(MAY_CHANGE):
            raise UserError(
                f"{word} would change the jobs of the sweep that is continued: leave it out, or start a new "
                f"sweep (with resume_sweep, launcher=, launcher.* and search.trials may be given)."
            )
    return [*record["words"], *further, f"hydra.sweep.dir='{os.path.abspath(folder.path)}'"]
