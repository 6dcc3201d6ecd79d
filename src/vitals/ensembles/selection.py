"""Which checkpoints make an ensemble. Importable without torch: a wrong folder is answered at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.run_folder import RunFolder, Weights

WAYS = ("runs", "sweep", "run")


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that is to be a member, and the run that it belongs to."""

    run: RunFolder
    path: Path


@dataclass(frozen=True)
class Selection:
    """The members to be, best first where that is known, and a sentence for each that cannot be one."""

    candidates: list[Candidate]
    left_out: list[str]


def select(options: DictConfig) -> Selection:
    """The checkpoints that `options` ask for, as `vitals/configs/ensemble.yaml` describes them; `UserError`
    if the folder that was named is none, or fewer than two members are found in all."""
    given = [way for way in WAYS if options[way]]
    if len(given) != 1:
        raise UserError(
            f"say in one way where the members are: {', '.join(f'{way}=…' for way in WAYS)}; "
            f"given {'are ' + ' and '.join(given) if given else 'is none'}."
        )
    if options.runs:
        selection = _of_runs(map(str, options.runs), "runs", options.checkpoint)
    elif options.sweep:
        selection = _of_sweep(Path(options.sweep), options.top, options.checkpoint)
    else:
        selection = _of_one_run(options.run)
    require_members(len(selection.candidates), f"{given[0]}={options[given[0]]}", selection.left_out)
    return selection


def require_members(count: int, where: str, left_out: list[str]) -> None:
    """Make sure that `where` gives two members at least; `UserError` if there are fewer, with what was
    `left_out`."""
    if count < 2:
        found = "only one member" if count else "no member"
        raise UserError("\n".join([f"{where} gives {found}, and an ensemble needs two.", *left_out]))


def _of_runs(paths: Iterable[Path | str], key: str, checkpoint: str, top: int | None = None) -> Selection:
    """Of the runs at `paths`, which the user gave as `key`, in their order; or the `top` so many, the best
    first."""
    scored: list[tuple[float, Candidate]] = []
    left_out = []
    for path in paths:
        try:
            run = RunFolder.existing(path, key)
            candidate = Candidate(run, run.checkpoint(checkpoint))
            scored.append((rank(run, checkpoint) if top else 0.0, candidate))
        except UserError as error:
            left_out.append(f"Left out: {error}")
    scored.sort(key=lambda pair: pair[0])  # keeps the order among equals
    return Selection([candidate for _, candidate in scored[:top]], left_out)


def _of_sweep(folder: Path, top: int, checkpoint: str) -> Selection:
    if not folder.is_dir():
        raise UserError(f"sweep={folder} is not a folder: name the folder of a sweep, logs/<name>/sweeps/….")
    runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
    if not runs:
        raise UserError(f"sweep={folder} has no run in it: name the folder of a sweep, logs/<name>/sweeps/….")
    return _of_runs(runs, "sweep", checkpoint, top)


def _of_one_run(path: str) -> Selection:
    run = RunFolder.existing(path, "run")
    files = sorted(run.checkpoints.glob("*.ckpt"))
    if any(file.name.startswith("best_") for file in files):  # best.ckpt is the same once more
        files = [file for file in files if file.name != "best.ckpt"]
    return Selection([Candidate(run, file) for file in files], [])


def rank(run: RunFolder, checkpoint: str) -> float:
    """A number to sort runs by: the better the validation of `checkpoint`, the lower; of a file that the user
    named, what the run chose stands for it. `UserError` if they were not validated."""
    metric = run.read_metric()
    kinds: dict[str, Weights] = {kind: kind for kind in get_args(Weights)}
    scored = run.score(metric, kinds.get(checkpoint))
    if scored is None:
        raise UserError(f"{run.metrics} has no {metric.name}.")
    return metric.rank(scored[0])
