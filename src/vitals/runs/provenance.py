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

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes) if changes is not None else None}
