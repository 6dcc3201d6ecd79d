"""The points of a search and what they gave, in an Optuna study in SQLite that can be continued.

A trial belongs to a job by the user attribute `job`. Point `n` is drawn by a sampler seeded with the search's
seed and `n`, so that a search that is continued does not draw the points of its beginning again.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from vitals.metric import Metric
from vitals.runs.run_folder import RunFolder, read_curve
from vitals.sweeps.jobs.job import is_finished
from vitals.sweeps.search.space import Dimension


class Study:
    """The trials of a search, or of one stage of it, called `name` in the SQLite data base `file`, which is
    made where there is none. The `sampler`, `random` or `tpe`, draws the points of `space` from `seed`; `tpe`
    chooses after `startup` random ones."""

    def __init__(
        self,
        file: Path,
        name: str,
        space: Sequence[Dimension],
        metric: Metric,
        sampler: str,
        seed: int,
        startup: int = 10,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.metric = list(space), metric
        self.sampler, self.seed, self.startup = sampler, seed, startup
        self.study = optuna.create_study(
            storage=f"sqlite:///{file}", study_name=name, direction=metric.direction, load_if_exists=True
        )

    def known(self, folders: dict[int, Path]) -> dict[int, list[str]]:
        """Number and words of the jobs that were proposed already; one that finished while nobody looked, in
        one of the `folders` by number, gets its result here."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            number = trial.user_attrs.get("job")
            if number is None:  # ended before it became a job
                self.study.tell(trial.number, state=TrialState.FAIL)
            elif number in folders and is_finished(folders[number]):
                self.record(number, folders[number], "finished")
        return {number: trial.user_attrs["words"] for number, trial in sorted(self._by_job().items())}

    def propose(self, number: int, point: dict[str, Any] | None = None) -> list[str]:
        """The words of job `number`: a new point, or the one that is given."""
        if point is not None:
            self.study.enqueue_trial(point)
        self.study.sampler = self._sampler(number)
        trial = self.study.ask({dimension.key: dimension.distribution() for dimension in self.space})
        words = [word for dimension in self.space for word in dimension.words(trial.params[dimension.key])]
        trial.set_user_attr("words", words)
        trial.set_user_attr("job", number)
        return words

    def point(self, number: int) -> dict[str, Any]:
        """The point of job `number`, which was proposed already."""
        return dict(self._by_job()[number].params)

    def record(self, number: int, folder: Path, status: str) -> None:
        """Write what a job gave: the score of the weights that it chose, or that it stopped early or failed.

        An interrupted job keeps its trial open, to be continued.
        """
        if status == "interrupted":
            return
        trial = self._by_job()[number]
        rows = read_curve(folder, self.metric)
        scored = RunFolder(folder).score(self.metric, rows=rows)
        score = None if scored is None else scored[0]
        finished = status == "finished" and score is not None and math.isfinite(score)
        stopped = RunFolder(folder).read_status().get("stopped_early")
        if trial.state != TrialState.RUNNING:  # it had failed, and was run again
            if finished:
                kept: Any = {name: getattr(trial, name) for name in ("params", "distributions", "user_attrs")}
                self.study.add_trial(create_trial(value=score, **kept))
            return
        open_trial = Trial(self.study, trial._trial_id)
        for row in filter(self.metric.has, rows):
            if row["epoch"].is_integer():
                open_trial.report(row[self.metric.name], int(row["epoch"]))
        if stopped:
            open_trial.set_user_attr("stopped_early", stopped)
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif not finished:
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, score)

    def best(self, count: int) -> list[dict[str, Any]]:
        """The `count` best points, the best first, by the mean of the trials that each had."""
        trials: dict[str, list[FrozenTrial]] = {}
        for trial in self._by_job().values():
            if trial.value is not None:
                trials.setdefault(repr(sorted(trial.params.items())), []).append(trial)
        done = list(trials.values())
        done.sort(key=lambda same: self.metric.rank(fmean(trial.value or 0.0 for trial in same)))
        return [dict(same[0].params) for same in done[:count]]

    def _by_job(self) -> dict[int, FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return {trial.user_attrs["job"]: trial for trial in trials if "job" in trial.user_attrs}

    def _sampler(self, number: int) -> BaseSampler:
        seed = self.seed + 1_000_003 * number  # neighbouring numbers, far seeds
        if self.sampler == "random":
            return RandomSampler(seed=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constant_liar: do not propose again what is being tried on another device
            return TPESampler(seed=seed % 2**32, n_startup_trials=self.startup, constant_liar=True)
