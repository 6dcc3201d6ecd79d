"""The folder of a run: what lies where in it, and its status.

Importable without torch, so that a wrong folder is answered at once.
"""

import math
import os
import re
import shlex
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import ConfigAttributeError

from vitals.bounded_yaml import read_mapping
from vitals.errors import UserError, one_line
from vitals.files import (
    existing_folder,
    read_json,
    read_metrics,
    read_status,
    renamed,
    require_inside,
    text_of,
    write_json,
)
from vitals.folder_lock import is_at_work, occupied, this_process, truthful
from vitals.measures.names import canonical
from vitals.metric import Metric, averaged_name, epoch_in


def read_curve(folder: Path, metric: Metric) -> list[dict[str, float]]:
    """The rows of the run's `metrics.csv`, as `read_metrics` has them, the scores under the names that the
    `metric` has: there loss and accuracy are `loss/val` and `accuracy/val`, whatever the module calls them.
    Empty before the first epoch, and where it is damaged."""
    try:
        rows = read_metrics(folder / "metrics.csv")
    except (OSError, ValueError):
        return []
    own = [name for name in (metric.name, metric.tie_breaker) if name]
    tags = {canonical(name): name for name in own if not any(name in row for row in rows)}
    return [{tags.get(tag, tag): value for tag, value in row.items()} for row in rows]


Weights = Literal["best", "last", "average"]
"""That a run ends with: of the best and of the last epoch, and the average of the later ones."""
Status = Literal["running", "finished", "failed", "interrupted"]

A_RUN = "the folder of a run, as in logs/<name>/"
A_RECORD = f"{A_RUN}, or a CSV file with a row an epoch or a step"
SWEEP = "sweep.json"
"""Lies in the folder of a sweep, whose jobs have their folders beside it."""


class RunFolder:
    """Paths and records of one run.

    `config.yaml` (resolved, with provenance), `status.json`, `metrics.csv`, `findings.json`, `history.jsonl`,
    `train.log`, `checkpoints/` and the files of the loggers.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.status = self.path / "status.json"
        self.metrics = self.path / "metrics.csv"
        self.findings = self.path / "findings.json"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"

    @property
    def to_go_on(self) -> str:
        """What to do when what ended the run is mended."""
        how = f"go on with resume={shlex.quote(shown(self.path))}"
        return how if self.config.is_file() else "start again"

    @property
    def sweep(self) -> Path | None:
        """The folder of the sweep that the run is a job of; None of any other run."""
        folder = self.path.absolute().parent
        return folder if (folder / SWEEP).is_file() else None

    @classmethod
    def existing(cls, path: Path | str, key: str) -> Self:
        """The run folder at `path`, which the user gave as `key`; `UserError` if there is no folder, or it
        holds no run."""
        given = Path(str(path)).expanduser()
        with suppress(OSError):  # which is told where the folder is looked for
            in_itself = not given.exists() or (given / "config.yaml").is_file()
            for place in () if in_itself else (given.parent, given.parent.parent):
                if (place / "status.json").is_file():  # a checkpoint, or the folder of these
                    chosen = f" checkpoint={given.name}" * (key == "run" and given.suffix == ".ckpt")
                    meant = f"did you mean {key}={place}{chosen}?"
                    raise UserError(f"{key}={path} lies in the folder of a run: {meant}")
        folder = cls(existing_folder(path, key, A_RUN))
        folder.require_no_sweep(key)
        if not folder.config.is_file():
            raise UserError(f"{key}={path} is not the folder of a run: it has no config.yaml.")
        return folder

    def require_no_sweep(self, key: str) -> None:
        """Make sure that this is not the folder of a sweep, which the user gave as `key`; `UserError` if it
        is."""
        if (self.path / SWEEP).is_file():
            raise UserError(
                f"{key}={shown(self.path)} is the folder of a sweep: its jobs have theirs in it, and "
                f"-m resume_sweep=<this folder> goes on with it."
            )

    def require_new(self) -> None:
        """Make sure that a run which begins here destroys no other; `UserError` if there is a run in it."""
        if self.config.exists():
            status, path = self.read_status().get("status", "of unknown status"), shown(self.path)
            raise UserError(
                f"hydra.run.dir={path} holds a run already ({status}): resume={shlex.quote(path)} goes on "
                f"with it, overwrite=true moves it aside and begins anew, any other folder leaves it alone."
            )

    def require_free(self, patience: float = 0.0) -> None:
        """Make sure that no other process trains here, for which `patience` seconds may pass, and that what
        is written here stays here; `UserError` naming the process, or the link that leads elsewhere."""
        require_inside(self.path, self.path.rglob("*"))
        deadline = time.monotonic() + patience
        while is_at_work(self.path, record := read_json(self.status)):
            if time.monotonic() > deadline:
                raise occupied(self.path, record)
            time.sleep(0.1)

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is something to go on from."""
        return self.last_checkpoint.exists() or (self.checkpoints / "previous.ckpt").exists()

    @property
    def tells_something(self) -> bool:
        """Whether there is more of the run than its configuration: what was seen, measured or learned."""
        return any(map(Path.exists, (self.checkpoints, self.metrics, self.findings)))

    @property
    def begins_again(self) -> bool:
        """Whether the run broke off before it came to its first checkpoint."""
        status = self.read_status()
        broken_off = status.get("status") != "finished" and status.get("epoch", 0) <= 1
        return broken_off and not self.has_checkpoints

    def clear_records(self) -> None:
        """Take away what a try has left that begins again from nothing."""
        names = ("metrics.csv", "curves.csv", "history.jsonl", "findings.json")
        left = [*self.path.glob("events.out.tfevents*"), *(self.path / name for name in names)]
        for file in [*left, *self.checkpoints.glob("*.ckpt")]:
            file.unlink(missing_ok=True)

    def move_aside(self) -> Path:
        """Rename the folder to `old_<name>`, as `renamed` has it; the new path. `UserError` if a process
        trains here."""
        self.require_free()
        return renamed(self.path, "old")

    @property
    def weights(self) -> Weights:
        """Those that the run itself chose at its end, by validation; before that those of the best epoch."""
        weights = self.read_status().get("weights")
        return next((kind for kind in get_args(Weights) if kind == weights), "best")

    @property
    def diverged(self) -> bool:
        """Whether a number that is not finite ended the run, as it would again."""
        status = self.read_status()
        return status.get("status") == "failed" and str(status.get("stopped_early")).startswith("diverged:")

    def score(
        self, metric: Metric, weights: Weights | None = None, rows: list[dict[str, float]] | None = None
    ) -> tuple[float, float] | None:
        """The validation of some `weights` by `metric`, and the epoch that they are of; of those that the run
        chose where None. None where nobody validated them. `rows` of `metrics.csv` are read where they are
        not at hand."""
        rows = read_curve(self.path, metric) if rows is None else rows
        weights = weights or self.weights
        if weights == "average":
            name = averaged_name(metric.name)
            averages = [row for row in rows if math.isfinite(row.get(name, math.nan))]
            return (averages[-1][name], epoch_in(averages[-1])) if averages else None
        scored = [row for row in rows if metric.has(row)]
        row = metric.best(scored) if weights == "best" else scored[-1] if scored else None
        return None if row is None else (row[metric.name], epoch_in(row))

    def checkpoint(self, name: str) -> Path:
        """The checkpoint called `name`: `chosen`, `best`, `last`, `average`, or a file name in
        `checkpoints/`; `UserError` if there is none of that name."""
        if name == "chosen":
            name = self.weights
        path = self.checkpoints / (name if name.endswith(".ckpt") else f"{name}.ckpt")
        if not path.is_file():
            there = sorted(file.name for file in self.checkpoints.glob("*.ckpt"))
            raise UserError(f"there is no {path}: the run has {', '.join(there) or 'no checkpoint yet'}.")
        return path

    def read_config(self) -> DictConfig:
        """The run's configuration, without the provenance that stands beside it in the file; `UserError` if
        that is damaged, or no configuration of a run. A relative `data.root` that is not here is looked for
        where the run was started.

        It is written with its values resolved. One that stands for another plain value of the same file may
        be left; nothing is asked of the environment, or of what else a resolver knows.
        """
        content = self._read()
        facts = content.pop("provenance", None)
        if key := _interpolation_in(content, content):
            raise UserError(f"{self.config}: {key} is no plain value, as all in the folder of a run are.")
        try:
            config = OmegaConf.create(content)
            root, began = OmegaConf.select(config, "data.root"), (facts or {}).get("working_folder")
            there = Path(began) / root if isinstance(root, str) and began else None  # else refused later
            if there and there.exists() and not Path(root).exists():
                config.data.root = str(there)
            return config
        except Exception as error:
            raise UserError(f"{self.config} cannot be read: {one_line(error)}") from None

    def find(self, pattern: str) -> str | None:
        """What `config.yaml` has in the group of a `pattern` of one line, found without reading the rest of
        it; empty where it has no such line, None where there is no such file, or it may not be read."""
        try:
            found = re.search(pattern, text_of(self.config, "replace"), re.MULTILINE)
        except OSError:
            return None
        return found[1] if found else ""

    def read_provenance(self) -> dict[str, Any]:
        """Where the run came from, as `config.yaml` says; empty where it says nothing."""
        facts = self._read().get("provenance")
        return facts if isinstance(facts, dict) else {}

    def _read(self) -> dict[str, Any]:
        try:
            return read_mapping(self.config, get_yaml_loader())
        except Exception as error:  # whatever a damaged file makes of its reader
            raise UserError(f"{self.config} cannot be read: {one_line(error)}") from None

    def read_metric(self) -> Metric:
        """The metric by which the run is judged."""
        try:
            return Metric.of(self.read_config())
        except (ConfigAttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{self.config} names no metric: it is not the configuration of a run.") from None

    def read_status(self) -> dict[str, Any]:
        """What `status.json` says; empty where it was never written or is damaged.

        A run that it calls running and that no process trains any more is `killed`.
        """
        return truthful(self.path, read_status(self.status))

    def write_status(self, status: Status, **facts: Any) -> None:
        """Update `status.json`: the status and `facts`, beside what earlier calls have written.

        The file is replaced in one step, so that a reader never sees half of it. On a full disk it is written
        over as it stands, so that it is right there, too.
        """
        record = {"status": status, "updated": now(), **this_process(), **facts}
        write_json(self.status, read_json(self.status) | record, over=True)


def _interpolation_in(value: Any, content: dict[str, Any], key: str = "") -> str:
    """The first key below `key` with a value that stands for something else than a plain value of `content`;
    empty where there is none."""
    if isinstance(value, str) and "${" in value:
        meant: Any = content
        found = re.fullmatch(r"\$\{(oc\.select:)?([\w.]+)(,\w*)?\}", value)
        for part in found[2].split(".") if found else ():
            meant = meant.get(part) if isinstance(meant, dict) else None
        return "" if found and not isinstance(meant, dict | list) and "${" not in str(meant) else key
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = (_interpolation_in(part, content, f"{key}.{name}" if key else str(name)) for name, part in parts)
    return next(filter(None, inner), "")


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


TYPED_IN = "VITALS_TYPED_IN"
"""The variable with the folder in which the command was typed, where Hydra has left it for the run's folder
(`hydra.job.chdir=true`)."""


def here() -> Path:
    """The folder in which the command was typed."""
    return Path(os.environ.get(TYPED_IN) or os.getcwd())


def shown(path: Path) -> str:
    """The path as short as it can be typed from here."""
    absolute = path.absolute()
    return str(absolute.relative_to(here())) if absolute.is_relative_to(here()) else str(absolute)
