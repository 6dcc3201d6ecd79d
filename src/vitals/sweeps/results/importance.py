"""How much of the spread of a sweep's results each hyper-parameter explains."""

from __future__ import annotations

import warnings
from collections import Counter
from importlib.util import find_spec

from vitals.sweeps.results.results import NOT_VARIED, SweepResults

FEWEST_JOBS = 8


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
