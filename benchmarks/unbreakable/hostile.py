"""Folders from strangers: no command may run what they hold, nor take more time and memory than it should."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.unbreakable.commands import Commands
from benchmarks.unbreakable.disk import faults_of
from benchmarks.unbreakable.kills import TINY

PATIENCE = 60.0
"""Seconds after which a command counts as hanging."""
EVIL = "open({mark!r}, 'w').close()"
COMMANDS = (
    ["evaluate", "run=run"],
    ["train", "resume=run", "trainer.max_epochs=2"],
    ["ensemble", "runs=[run,run]"],
    ["report", "run=run"],
)


class Payload:
    """Makes the mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (EVIL.format(mark=str(self.mark)),)


def targets(mark: Path, bag: Path) -> dict[str, dict[str, Any]]:
    """Nodes of a configuration that make `mark`, by what they try; `bag` is a folder with what they read."""
    path, code = str(mark), EVIL.format(mark=str(mark))
    shell = {"command": f"touch {path}"}
    pickled = str(bag / "evil.pkl")
    return {
        "a function of the system": {"_target_": "os.system", **shell},
        "a process": {"_target_": "subprocess.call", "args": ["touch", path]},
        "code": {"_target_": "builtins.exec", "_args_": [code]},
        "a method of Path": {
            "_target_": "pathlib.Path.write_text",
            "_args_": [{"_target_": "pathlib.Path", "_args_": [path]}, "x"],
        },
        "torch.load": {"_target_": "torch.load", "f": pickled, "weights_only": False},
        "joblib.load": {"_target_": "joblib.load", "filename": pickled},
        "numpy.load": {"_target_": "numpy.load", "file": pickled, "allow_pickle": True},
        "pandas": {"_target_": "pandas.read_pickle", "filepath_or_buffer": pickled},
        "torch.hub": {
            "_target_": "torch.hub.load",
            "repo_or_dir": str(bag),
            "model": "evil",
            "source": "local",
        },
        "a module of its own": {"_target_": "run.evil.Evil"},
        "a file of code": {"_target_": "runpy.run_path", "_args_": [str(bag / "evil.py")]},
        "Hydra's own": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", **shell}},
        "a module seen through ours": {"_target_": "vitals.runs.run.os.system", **shell},
        "a module seen through the project": {
            "_target_": "project.build.torch.hub.load",
            "repo_or_dir": str(bag),
            "model": "evil",
            "source": "local",
        },
        "a module seen through torch.optim": {"_target_": "torch.optim.optimizer.warnings.sys.modules"},
        "a module seen through lightning": {
            "_target_": "lightning.pytorch.trainer.trainer.os.system",
            **shell,
        },
        "a module seen through torch.nn": {
            "_target_": "torch.nn.modules.module.torch.load",
            "f": pickled,
            "weights_only": False,
        },
        "a module seen through torchvision": {"_target_": "torchvision.models._api.sys.modules"},
        "a checkpoint of Lightning's": {
            "_target_": "lightning.pytorch.LightningModule.load_from_checkpoint",
            "checkpoint_path": pickled,
            "weights_only": False,
        },
        "the loader of Fabric": {
            "_target_": "lightning.fabric.utilities.cloud_io._load",
            "path_or_url": pickled,
            "weights_only": False,
        },
        "our own reader of memory": {
            "_target_": "vitals.files.write_atomically",
            "path": {"_target_": "pathlib.Path", "_args_": [path]},
            "content": "x",
        },
    }


PLACES = (
    "network",
    "network.initialization",
    "data",
    "module",
    "optimizer",
    "schedule",
    "trainer",
    "trainer.plugins",
    "average",
    "checks",
    "logger.tensorboard",
    "callbacks.filters",
    "callbacks.further",
    "callbacks.update_ratio.every_n_steps",
)
"""Keys at which a node is put, each in its turn."""


@dataclass
class Attempt:
    """A command on a hostile folder."""

    what: str
    command: list[str]
    executed: bool
    wrong: list[str]

    def __str__(self) -> str:
        answer = "; ".join(["EXECUTED"] * self.executed + self.wrong) or "answered"
        return f"{self.what}: {' '.join(self.command)}: {answer}"


def _set(config: dict[str, Any], key: str, node: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        config = config.setdefault(part, {})
    config[last] = node


def folders(run: Path, mark: Path, bag: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What is hostile, and a function that makes a copy of the healthy `run` so."""

    def with_node(key: str, node: Any) -> Callable[[Path], object]:
        def harm(copy: Path) -> None:
            config = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
            _set(config, key, node)
            (copy / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
            shutil.copy(bag / "evil.py", copy)  # beside it, in the working folder, it would be the user's own

        return harm

    def with_file(name: str, write: Callable[[Path], Any]) -> Callable[[Path], object]:
        def harm(copy: Path) -> None:
            (copy / name).unlink(missing_ok=True)
            write(copy / name)

        return harm

    nodes = targets(mark, bag)
    for number, (what, node) in enumerate(nodes.items()):
        for key in (PLACES[(number + turn) % len(PLACES)] for turn in (0, 5, 9)):
            yield f"{what} as {key}", with_node(key, node)
    yield "a rule of its own", with_node("diagnosis.rules", ["run.evil.rule"])
    yield "a check of its own", with_node("checks.which", ["run.evil.Check"])
    yield "a resolver", with_node("network.widths", "${oc.decode:${oc.env:HOME}}")
    yield (
        "Python in YAML",
        lambda copy: (
            (copy / "config.yaml")
            .open("a")
            .write(f"evil: !!python/object/apply:os.system ['touch {mark}']\n")
        ),
    )
    pickled = pickle.dumps(Payload(mark))
    for name in ("last.ckpt", "best.ckpt"):
        yield f"{name} is a pickle", with_file(f"checkpoints/{name}", lambda path: path.write_bytes(pickled))

    def objects(path: Path) -> None:
        np.savez(path, probabilities=np.array([Payload(mark)], dtype=object), labels=np.zeros(1))

    yield "predictions.npz holds objects", with_file("predictions.npz", objects)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, letter in zip("abcdefghi", "bcdefghij", strict=True):
        bomb += f"{letter}: &{letter} [{', '.join([f'*{before}'] * 10)}]\n"
    yield "aliases without end", lambda copy: (copy / "config.yaml").open("a").write(bomb)

    def inflated(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("labels.npy", "w") as part:
            header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (4000000000,), }"
            part.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
            for _ in range(300):
                part.write(bytes(2**20))

    yield "predictions.npz of 32 GB", with_file("predictions.npz", inflated)
    for name in (
        "train.log",
        ".lock",
        "history.jsonl",
        "metrics.csv",
        "status.json",
        "checkpoints/last.ckpt",
    ):
        yield f"{name} leads elsewhere", with_file(name, lambda path: path.symlink_to(mark))
    nested = "[" * 50_000 + "]" * 50_000
    yield "brackets within brackets", lambda copy: (copy / "config.yaml").write_text(f"a: {nested}")
    yield "findings within findings", lambda copy: (copy / "findings.json").write_text(nested)

    def markup(copy: Path) -> None:
        status = json.loads((copy / "status.json").read_text(encoding="utf-8"))
        status["stopped_early"] = status["stopped_by"] = "a[/b] <script>alert(1)</script>"
        (copy / "status.json").write_text(json.dumps(status), encoding="utf-8")
        with_node("name", "a[/b]")(copy)

    yield "markup in its names", markup


def attempts(commands: Commands, place: Path, say: Callable[[str], None]) -> list[Attempt]:
    """Give every hostile folder to every command."""
    bag, healthy = place / "bag", place / "healthy"
    bag.mkdir(parents=True)
    healthy.mkdir()
    mark = place / "mark"
    code = EVIL.format(mark=str(mark))
    (bag / "evil.py").write_text(f"{code}\nEvil = Check = rule = dict\n", encoding="utf-8")
    (bag / "hubconf.py").write_text(f"{code}\ndependencies = []\nevil = dict\n", encoding="utf-8")
    (bag / "evil.pkl").write_bytes(pickle.dumps(Payload(mark)))
    ended = commands.train([*TINY, "trainer.max_epochs=1"], healthy)
    if ended.code:
        raise SystemExit(f"the healthy run ended with code {ended.code}:\n{ended.said}")
    done = []
    for what, harm in folders(healthy / "run", mark, bag):
        for command in COMMANDS:
            copy = place / "copy"
            shutil.copytree(healthy, copy, symlinks=True)
            harm(copy / "run")
            ended = commands.script(command[0], command[1:], copy, PATIENCE)
            wrong = faults_of(ended)
            done.append(Attempt(what, command, mark.exists(), wrong))
            say(str(done[-1]))
            mark.unlink(missing_ok=True)
            shutil.rmtree(copy)
    return done
