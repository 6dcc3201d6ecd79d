"""The searches that `search=` names: which jobs there are, and what is learned from each.

On Optuna's ask-and-tell, not with Hydra's Optuna sweeper, which waits for a whole batch, begins again at job
0 when continued, and proposes the same points.
"""

import errno
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, product
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import OmegaConf

from vitals.errors import UserError
from vitals.files import CannotWrite, cannot_write
from vitals.runs.run_folder import shown
from vitals.runs.signals import Interrupted
from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.sweep import Sweep
from vitals.sweeps.search.space import Dimension, search_space

OF_THE_DISK = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}
"""What SQLite says of the disk."""


def run_sweep(sweep: Sweep) -> None:
    """Run all of a sweep's jobs, report on them, and end the program with code 1 if one of them did not
    finish, or with 128 and the signal's number after an interruption; `UserError` if something that the sweep
    needs is missing."""
    sweep.require_prerequisites()
    space = searched(sweep)
    with ExitStack() as stack:
        stack.enter_context(sweep.folder.only_one())
        sweep.folder.write_record(sweep.arguments, sweep.script, sweep.metric)
        sweep.keep_code()
        stack.enter_context(sweep.code.imported_first())
        sweep.starter = stack.enter_context(sweep.backend.starter())
        stopped = 0
        try:
            run_search(sweep, space)
        except Interrupted as stop:
            stopped = 128 + stop.number
        except Exception as error:
            go_on = f"go on with -m resume_sweep={shlex.quote(shown(sweep.folder.path))}"
            if problem := cannot_write(error, sweep.folder.path, go_on):
                raise problem from error
            raise
        from vitals.sweeps.results.report import report  # with Matplotlib, which `announce` has imported

        complete = all(job.complete for job in report(sweep.folder).jobs)
        if stopped or not complete:
            sys.exit(stopped or 1)


def searched(sweep: Sweep) -> list[Dimension]:
    """What the search varies; empty where there is none, and the listed values are combined. `UserError` if a
    range is wrong, or the search has nothing to vary."""
    search = sweep.config.get("search")
    ways, space = sweep.axes(), (search or {}).get("space") or {}
    return [] if search is None else search_space(space, sweep.overrides, sweep.config, ways)


def run_search(sweep: Sweep, space: list[Dimension]) -> None:
    """Run the jobs of the sweep that `search=` asks for, over `space`, as `searched` has it; `UserError` if a
    stage has nothing to go on with, `Interrupted` after Ctrl-C or SIGTERM."""
    search = sweep.config.get("search")
    if search is None:
        words = sweep.product()
        sweep.announce(len(words))
        sweep.run(enumerate(words), len(words))
        return
    sweep.folder.add_to_record(space=[part.sweep_word() for part in space if not part.together])
    fixed = [str(override.input_line) for override in sweep.overrides if not override.is_sweep_override()]
    fixed += ["stop_hopeless=true"] if search.stop_hopeless else []
    with _telling_of(sweep.folder.study):
        resolve_name(search._target_)(sweep, space, fixed)


@contextmanager
def _telling_of(file: Path) -> Iterator[None]:
    """Within it, what SQLite cannot do with the study in `file` is told in one sentence; `UserError` if the
    file is damaged, or cannot be written to."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, sqlite3.Error):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        number = OF_THE_DISK.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)
        if number is not None:
            raise CannotWrite(file, OSError(number, str(cause))) from error
        raise UserError(
            f"{file} is damaged ({cause}): put a copy of it there, or begin a new search."
        ) from error


def grid(sweep: Sweep, space: list[Dimension], fixed: list[str]) -> None:
    """All combinations of the values in `space`, of intervals of so many points; `fixed` are the words that
    all jobs have."""
    values = [[part.words(value) for value in part.evenly(sweep.config.search.points)] for part in space]
    points = sweep.repeated([*fixed, *chain(*words)] for words in product(*values))
    sweep.announce(len(points))
    sweep.run(enumerate(points), len(points))


def sampled(sweep: Sweep, space: list[Dimension], fixed: list[str]) -> None:
    """Points drawn by the sampler; arguments as of `grid`."""
    search = sweep.config.search
    count = search.trials * sweep.repeats
    sweep.announce(count)
    _stage(sweep, search.sampler, space, fixed, range(count))


def _stage(
    sweep: Sweep,
    name: str,
    space: list[Dimension],
    fixed: list[str],
    numbers: range,
    first: dict[str, Any] | None = None,
) -> Any:
    """Run jobs at points of `space`, and return their study `name`. So many of the `numbers` after each other
    as `repeats=` says have the same point, `first` being the first; the sampler chooses the others."""
    from vitals.sweeps.search.study import Study  # imports Optuna

    search = sweep.config.search
    sweep.folder.path.mkdir(parents=True, exist_ok=True)
    study = Study(
        sweep.folder.study, name, space, sweep.metric, search.sampler, search.seed, search.get("startup", 10)
    )
    folders = {int(path.name.partition("_")[0]): path for path in sweep.folder.jobs()}
    known = study.known(folders)

    def jobs() -> Iterator[tuple[int, list[str]]]:
        for number in numbers:
            turn = (number - numbers.start) % sweep.repeats
            if number in known:
                words = known[number]
                sweep.require_allowed(words)
            else:
                point = first if number == numbers.start else None
                words = study.propose(number, study.point(number - turn) if turn else point)
            yield number, [*fixed, *words, *sweep.seed_word(turn)]

    def ended(job: Job, status: str) -> None:
        study.record(job.number, job.folder, status)

    sweep.run(jobs(), len(numbers), ended, numbers)
    return study


def coarse_to_fine(sweep: Sweep, space: list[Dimension], fixed: list[str]) -> None:
    """Stages of more epochs and fewer jobs, each within the span of the best of the stage before.

    The first job of a stage is the best point so far; the others are drawn anew in the narrowed ranges.
    """
    search = sweep.config.search
    shares = (jobs * search.trials if isinstance(jobs, float) else jobs for jobs in search.stage_jobs)
    counts = [max(1, round(jobs)) for jobs in shares]
    sweep.announce(sum(counts) * sweep.repeats)
    start, best = 0, None
    for stage, (epochs, count) in enumerate(zip(search.stage_epochs, counts, strict=True)):
        words = [*fixed, *_shortened(sweep, epochs)]
        end = start + count * sweep.repeats
        study = _stage(sweep, f"stage {stage + 1}", space, words, range(start, end), best)
        start = end
        if stage + 1 < len(counts):
            survivors = study.best(counts[stage + 1])
            if not survivors:
                raise UserError(
                    f"no job of stage {stage + 1} gave a finite {sweep.metric.name}: see the logs in "
                    f"{sweep.folder.path}, and search lower learning rates."
                )
            best = survivors[0]
            space = [part.narrowed([point[part.key] for point in survivors]) for part in space]


def _shortened(sweep: Sweep, epochs: int | None) -> list[str]:
    """The words that train `epochs` epochs, with a warm-up and a momentum ramp that fit into them."""
    if epochs is None:
        return []
    words = [f"trainer.max_epochs={epochs}"]
    if (OmegaConf.select(sweep.config, "schedule.warmup_epochs") or 0) >= epochs:
        words.append("schedule.warmup_epochs=0")
    if (OmegaConf.select(sweep.config, "momentum_schedule.epochs") or 0) > epochs:
        words.append(f"momentum_schedule.epochs={epochs}")
    return words
