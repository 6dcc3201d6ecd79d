"""What the jobs of a sweep gave, read from their folders. Importable without torch."""

import contextlib
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from vitals.files import read_json, write_table
from vitals.findings import read_findings
from vitals.metric import Metric, bare_name
from vitals.runs.run_folder import RunFolder, Weights, read_curve
from vitals.sweeps.jobs.folder import SweepFolder

NOT_VARIED = ("seed", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "schedule.warmup_epochs")
"""What two jobs may differ in while they try the same hyper-parameters: repetitions and stages."""


@dataclass
class JobResult:
    """One row of the table. Scores are those of the sweep's metric, None where there is none."""

    number: int
    folder: Path
    words: dict[str, str]
    """Every override of the job, by its key."""
    status: str
    """That of `status.json`; `diverged` or `hopeless` for a job that was stopped early."""
    seed: int | None = None
    score: float | None = None
    """Of the weights that the run chose; by it the jobs are ranked."""
    weights: Weights = "best"
    """Which these are."""
    best: float | None = None
    """Score of the best epoch."""
    best_epoch: float | None = None
    last: float | None = None
    average: float | None = None
    """Of the averaged weights at the end, the ones that `average.ckpt` keeps, in validation."""
    test: float | None = None
    minutes: float | None = None
    error: str = ""
    """Its error line, or why it was stopped early."""
    findings: list[str] = field(default_factory=list)
    """Cause codes of what is wrong, most important first."""
    code: str | None = None
    """When the copy of the code that it ran was taken; empty where there is none, None where nobody knows."""
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the job needs no other try."""
        return self.status in ("finished", "diverged", "hopeless")


@dataclass
class SweepResults:
    """The jobs of a sweep, and which overrides tell them apart."""

    folder: SweepFolder
    jobs: list[JobResult]
    metric: Metric
    varied: list[str]
    """Keys whose values differ between jobs, the seed left out."""
    missing: int = 0
    """Jobs that were never started."""

    @property
    def running(self) -> bool:
        """Whether a process is at work on one of the jobs."""
        return any(job.status == "running" for job in self.jobs)

    @property
    def ranked(self) -> list[JobResult]:
        """The jobs that have a score, the best first; of equals the earlier."""
        scored = (job for job in self.jobs if job.score is not None)
        return sorted(scored, key=lambda job: self.metric.rank(job.score))

    def by_settings(self, jobs: Iterable[JobResult]) -> list[list[JobResult]]:
        """`jobs` in their order, those together that differ in their seed alone."""
        groups: dict[tuple[str | None, ...], list[JobResult]] = {}
        for job in jobs:
            groups.setdefault(tuple(map(job.words.get, self.varied)), []).append(job)
        return list(groups.values())

    def is_logarithmic(self, key: str) -> bool:
        """Whether a numeric key has a logarithmic scale: as it was searched, else over a decade or more."""
        values = [value for value, _ in self.numbers(key)]
        if not values or min(values) <= 0:
            return False
        for word in self.folder.read_record().get("space") or []:
            if word.startswith(f"{key}=") and "interval" in word:
                return "tag(log" in word
        return max(values) >= 10 * min(values)

    def numbers(self, key: str) -> list[tuple[float, JobResult]]:
        """The ranked jobs with their value of `key`; empty unless it is a number in all of them."""
        pairs = []
        for job in self.ranked:
            try:
                pairs.append((float(job.words[key]), job))
            except (KeyError, ValueError):
                return []
        return pairs


def read_results(folder: SweepFolder) -> SweepResults:
    """The results of the sweep in `folder`, of finished, failed and running jobs alike."""
    metric = folder.metric
    jobs = [_read_job(path, metric) for path in folder.jobs()]
    keys = dict.fromkeys(key for job in jobs for key in job.words)
    varied = [key for key in keys if key != "seed" and len({job.words.get(key) for job in jobs}) > 1]
    expected = int(folder.read_record().get("jobs") or len(jobs))
    return SweepResults(folder, jobs, metric, varied, max(0, expected - len(jobs)))


def over_seeds(results: SweepResults) -> list[list[JobResult]]:
    """The jobs that came to their end, those together that differ in their seed alone, the best first by the
    mean of their scores; empty where no two do."""
    groups = results.by_settings(job for job in results.ranked if job.complete)
    if all(len(group) < 2 for group in groups):
        return []
    return sorted(groups, key=lambda jobs: results.metric.rank(mean_score(jobs)))


def mean_score(jobs: Sequence[JobResult]) -> float:
    """Of jobs that all have a score."""
    return statistics.fmean(job.score for job in jobs if job.score is not None)


def write_csv(results: SweepResults) -> None:
    """Write `results.csv`, a row a job."""
    score, bare = results.metric.name.replace("/", "_"), bare_name(results.metric.name)
    columns = ["job", "status", *results.varied, "seed", f"best/{score}", "best/epoch"]
    columns += [f"last/{score}", f"average/{score}", "weights", f"chosen/{score}", f"test/{bare}", "minutes"]
    columns += ["error", "findings", "folder"]
    rows = []
    for job in results.jobs:
        values = [job.words.get(key, "") for key in results.varied]
        raw, chosen = [job.best, job.best_epoch, job.last], [job.average, job.weights, job.score]
        said = [job.test, job.minutes, job.error, " ".join(job.findings), job.folder.name]
        rows.append([job.number, job.status, *values, job.seed, *raw, *chosen, *said])
    write_table(results.folder.results, columns, [dict(zip(columns, row, strict=True)) for row in rows])


def _read_job(path: Path, metric: Metric) -> JobResult:
    run = RunFolder(path)
    status = run.read_status()
    state = str(status.get("status", "interrupted"))
    said = str(status.get("error") or "")
    if (state == "finished" and status.get("stopped_early")) or run.diverged:
        state, _, said = str(status["stopped_early"]).partition(":")
    record = read_json(path / "job.json", {"words": list, "code": str})
    number, words = int(path.name.partition("_")[0]), _words(record.get("words") or [])
    seed = run.find(r"^seed: (\d{1,20})$")
    job = JobResult(number, path, words, state, int(seed) if seed else None)
    job.error = " ".join(said.split())
    job.code = record.get("code")
    job.curve = read_curve(path, metric)
    scores = {kind: run.score(metric, kind, job.curve) or (None, None) for kind in get_args(Weights)}
    job.best, job.best_epoch = scores["best"]
    job.last, job.average = scores["last"][0], scores["average"][0]
    job.weights = run.weights
    job.score = scores[job.weights][0]
    test = (status.get("metrics") or {}).get(f"test/{bare_name(metric.name)}")
    job.test = test if test is not None and math.isfinite(test) else None
    if status.get("training_seconds") is not None:
        job.minutes = round(status["training_seconds"] / 60, 2)
    with contextlib.suppress(OSError, ValueError):
        findings = read_findings(path / "findings.json")
        job.findings = [finding.cause for finding in findings if finding.alarming]
    return job


def short_names(keys: list[str]) -> list[str]:
    """The last part of each key where that is enough to tell them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _words(words: Sequence[str]) -> dict[str, str]:
    pairs = (word.lstrip("+").partition("=") for word in words)
    return {key: value for key, _, value in pairs if not key.startswith("hydra")}
