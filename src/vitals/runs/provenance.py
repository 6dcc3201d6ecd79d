"""Where a run came from: code, packages, machine and command."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vitals.runs.kept_code import ORIGIN, origin_of
from vitals.runs.quoting import program

PACKAGES = ("vitals", "torch", "torchvision", "lightning", "hydra-core")


def provenance() -> dict[str, Any]:
    """Plain facts about the code and the machine, for the run's `config.yaml`."""
    import torch  # here, as all else in this file is wanted before there is time for it

    return {
        "command": shlex.join([*program(), *sys.argv[1:]]),
        "working_folder": os.getcwd(),
        "git": git_state(Path(__file__).parent),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "cpus": usable_cpus(),
            "gpus": [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())],
        },
    }


def _version(package: str) -> str | None:
    """None where it is not installed, but found by PYTHONPATH, say."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def usable_cpus() -> int:
    """Processors that this process may use; where the system cannot say, as macOS, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_state(folder: Path) -> dict[str, Any]:
    """The commit of the checkout around `folder` and whether files differ from it; None outside of one.

    Of the copy of a sweep's code it is what it was when that was taken.
    """
    if kept := origin_of(folder / ORIGIN):
        return {key: kept[1].get(key) for key in ("commit", "dirty")}
    changes = answer_of(["git", "status", "--porcelain"], folder, seconds=10)
    commit = answer_of(["git", "rev-parse", "HEAD"], folder, seconds=10)
    return {
        "commit": None if commit is None else commit.decode().strip(),
        "dirty": None if changes is None else bool(changes),
    }


def answer_of(command: list[str], folder: Path | None = None, seconds: float = 30) -> bytes | None:
    """What a program prints that is run in `folder`; None where it is not there, fails, or takes longer."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
