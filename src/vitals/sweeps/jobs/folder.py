"""The folder of a sweep: the command it was started with, and its jobs."""

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from vitals.errors import UserError
from vitals.files import Kinds, existing_folder, read_json, write_json
from vitals.folder_lock import held, this_process
from vitals.metric import Metric
from vitals.runs.quoting import program
from vitals.runs.run_folder import SWEEP, RunFolder, now

LONGEST_NAME = 120
RECORD: Kinds = {
    **dict.fromkeys(("words", "space"), list),
    **dict.fromkeys(("script", "folder", "started"), str),
    **dict.fromkeys(("jobs", "seed"), int),
    "metric": dict,
}
"""What `sweep.json` holds."""


class SweepFolder:
    """Paths and records of one sweep: `sweep.json`, and a run folder for each job."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.record = self.path / SWEEP
        self.study = self.path / "study.db"
        self.results = self.path / "results.csv"

    @classmethod
    def existing(cls, path: Path | str, key: str) -> Self:
        """The sweep folder at `path`, which the user gave as `key`; `UserError` if there is no folder, or it
        holds no sweep."""
        folder = cls(existing_folder(path, key, "the folder of a sweep, as in logs/<name>/sweeps/"))
        if not folder.record.is_file() and not folder.jobs():
            raise UserError(f"{key}={path} is not the folder of a sweep: it has no sweep.json and no jobs.")
        return folder

    def jobs(self) -> list[Path]:
        """The folders of its jobs, by their numbers."""
        folders = (path for path in self.path.glob("*/") if path.is_dir())
        numbered = [path for path in folders if re.match(r"\d+(_|$)", path.name)]
        return sorted(numbered, key=lambda path: int(path.name.partition("_")[0]))

    def read_record(self) -> dict[str, Any]:
        """What `sweep.json` says, of values as they should be; empty where it is missing or damaged."""
        return read_json(self.record, RECORD)

    @property
    def metric(self) -> Metric:
        """The metric by which its jobs are judged; where the record is damaged, that of its first job.
        `UserError` if neither says it."""
        with suppress(KeyError, TypeError, ValueError):
            return Metric.of(self.read_record())
        for folder in self.jobs():
            if (folder / "config.yaml").is_file():
                return RunFolder(folder).read_metric()
        raise UserError(f"{self.path} names no metric: its record and its jobs say nothing of one.")

    def write_record(self, words: Sequence[str], script: str, metric: Metric) -> None:
        """Write how the sweep was started, so that it can be started again, where that is not there already,
        and which process runs it."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.record.exists():
            content = {"words": list(words), "script": script, "folder": os.getcwd(), "started": now()}
            write_json(self.record, content | {"metric": asdict(metric)})
        self.add_to_record(**this_process())

    def program(self, command: str = "") -> list[str]:
        """The words that start its own command, or another of the instrument's, from the working folder."""
        record = self.read_record()
        script, folder = record.get("script") or "scripts/train.py", record.get("folder") or os.getcwd()
        return program(script, command, folder)

    def add_to_record(self, **facts: Any) -> None:
        """Write `facts` into `sweep.json` beside what is there."""
        write_json(self.record, self.read_record() | facts)

    def only_one(self) -> AbstractContextManager[bool]:
        """Within it, no other process runs this sweep; `UserError` if one does."""
        self.path.mkdir(parents=True, exist_ok=True)
        return held(self.path, self.read_record())


def folder_name(number: object, overrides: object) -> str:
    """The name of a job's folder, without what a path or a command line would trip over."""
    words = re.sub(r"[^\w.,+-]+", "-", str(overrides)).strip("-")
    return f"{number}_{words}"[:LONGEST_NAME].rstrip("_")
