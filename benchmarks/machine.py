"""What every benchmark prints of its figures: n, mean and spread, and where and when they were measured."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from vitals.runs.provenance import git_state, usable_cpus

ROOT = Path(__file__).parents[1]


def figure(values: Sequence[float], form: str = ".3g") -> str:
    """`1.03 ± 0.02 (0.99 to 1.07, n = 5)`: mean, standard deviation, smallest and largest of n."""
    mean = format(statistics.mean(values), form)
    if len(values) < 2:
        return f"{mean} (n = 1)"
    ends = " to ".join(format(end, form) for end in (min(values), max(values)))
    return f"{mean} ± {format(statistics.stdev(values), form)} ({ends}, n = {len(values)})"


def print_where_and_when() -> None:
    """The line that stands below figures: processor or GPU, cores and load, versions, date, commit."""
    print(f"measured on {where_and_when()}")


def where_and_when() -> str:
    """The same, without its beginning."""
    import torch  # a benchmark need not have imported it

    gpus = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    cores = f"{usable_cpus()} cores (torch: {torch.get_num_threads()})"
    if hasattr(os, "getloadavg"):  # more than the cores: there was other work
        cores += f" under a load of {os.getloadavg()[0]:.1f}"
    versions = [f"{name} {version(name)}" for name in ("torch", "lightning", "vitals")]
    git = git_state(ROOT)
    commit = f"commit {(git['commit'] or 'unknown')[:7]}{' with changes' if git['dirty'] else ''}"
    python = f"{platform.system()}, Python {platform.python_version()}"
    return ", ".join([*gpus, processor(), cores, python, *versions, f"{datetime.now(UTC):%d %B %Y}", commit])


def processor() -> str:
    """The model of the processor, as Linux tells it, or its architecture."""
    try:
        told = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        told = None
    return told[1] if told else platform.processor() or platform.machine()
