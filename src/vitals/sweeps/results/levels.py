"""What each hyper-parameter does: what its values give at their best, with all others free, and how much of
the spread of the results it explains."""

import warnings
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from vitals.report.drawing import SEQUENCE, SERIES
from vitals.report.numbers import number
from vitals.sweeps.results.results import NOT_VARIED, JobResult, SweepResults, mean_score

MOST = 6
"""Values that have a colour of their own; of a number with more, equal parts of its range have."""
FEWEST_JOBS = 8


@dataclass
class Level:
    """A value of a hyper-parameter, or a part of its range."""

    label: str
    jobs: list[JobResult]
    """That have it, the best first."""
    best: list[JobResult]
    """Of these the ones of the best settings: one, or several with different seeds."""
    colour: str = "muted"
    """A name from `TOKENS`: of numbers in their order, of names one that tells them apart."""

    @property
    def score(self) -> float:
        """The mean of the best."""
        return mean_score(self.best)


def levels(results: SweepResults, key: str) -> list[Level]:
    """The values of `key` among the jobs that have a score, in order; a seed is a name, not a number."""
    numbers = [] if key == "seed" else results.numbers(key)
    jobs: dict[str, list[JobResult]] = {}
    if not numbers:
        for job in results.ranked:
            jobs.setdefault(job.words.get(key, "–"), []).append(job)
        found = [_level(results, label, jobs[label]) for label in sorted(jobs)]
        best = sorted(found, key=lambda level: results.metric.rank(level.score))[:MOST]
        for level, colour in zip((level for level in found if level in best), SERIES, strict=False):
            level.colour = colour
        return found
    values = np.array([value for value, _ in numbers])
    scaled = np.log10(values) if results.is_logarithmic(key) else values
    parts = np.unique(values, return_inverse=True)[1].reshape(-1)
    if parts.max() >= MOST:
        edges = np.linspace(scaled.min(), scaled.max(), MOST + 1)
        parts = np.digitize(scaled, edges[1:-1])
    found = []
    for part in sorted(set(parts.tolist())):
        low, high = values[parts == part].min(), values[parts == part].max()
        label = number(low) if low == high else f"{number(low)} to {number(high)}"
        chosen = [job for (_, job), own in zip(numbers, parts, strict=True) if own == part]
        found.append(_level(results, label, chosen))
    shades = np.linspace(len(found) < MOST, MOST - 1, len(found)).round().astype(int)
    for level, shade in zip(found, shades, strict=True):
        level.colour = SEQUENCE[shade]
    return found


def _level(results: SweepResults, label: str, jobs: list[JobResult]) -> Level:
    best = min(results.by_settings(jobs), key=lambda same: results.metric.rank(mean_score(same)))
    return Level(label, jobs, best)


def importance(results: SweepResults) -> dict[str, float]:
    """Share of the variance of the score by key, the largest first (fANOVA).

    Only jobs of the same length are compared, the most frequent one. Empty where there are fewer than eight
    of them, fewer than two keys, or no Optuna.
    """
    lengths = Counter(job.words.get("trainer.max_epochs") for job in results.ranked)
    if not lengths or find_spec("optuna") is None:
        return {}
    length = lengths.most_common(1)[0][0]
    jobs = [job for job in results.ranked if job.words.get("trainer.max_epochs") == length]
    keys = [
        key
        for key in results.varied
        if key not in NOT_VARIED
        and all(key in job.words for job in jobs)
        and len({job.words[key] for job in jobs}) > 1
    ]
    if len(jobs) < FEWEST_JOBS or len(keys) < 2 or len({job.score for job in jobs}) < 2:
        return {}
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    distributions: dict[str, BaseDistribution] = {}
    numeric = {}
    for key in keys:
        pairs = results.numbers(key)
        values = [value for value, _ in pairs]
        numeric[key] = bool(values)
        if values:
            low, high = min(values), max(values)
            distributions[key] = FloatDistribution(low, high, log=results.is_logarithmic(key))
        else:
            distributions[key] = CategoricalDistribution(sorted({job.words[key] for job in jobs}))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=results.metric.direction)
    for job in jobs:
        params = {key: float(job.words[key]) if numeric[key] else job.words[key] for key in keys}
        trial = optuna.trial.create_trial(params=params, distributions=distributions, value=job.score)
        study.add_trial(trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))
