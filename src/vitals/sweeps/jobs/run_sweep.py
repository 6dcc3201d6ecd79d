"""A sweep from its first job to its report."""

import shlex
import sys
from contextlib import ExitStack

from vitals.files import cannot_write
from vitals.runs.run_folder import shown
from vitals.sweeps.jobs.queue import SweepInterrupted
from vitals.sweeps.jobs.sweep import Sweep
from vitals.sweeps.search.search import run_search, searched


def run_sweep(sweep: Sweep) -> None:
    """Run all of a sweep's jobs, and end the program with code 1 if one of them did not finish.

    Raises:
        UserError: if something that the sweep needs is missing.
        SystemExit: with code 1, or 128 and the signal's number after an interruption.
    """
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
        except SweepInterrupted as stop:
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
