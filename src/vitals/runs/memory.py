"""How much memory there is, so that it can be estimated before it is asked for."""

import os
import re
from contextlib import suppress
from pathlib import Path

from vitals.errors import UserError

with suppress(ImportError):  # Windows has none
    import resource

UNTOLD = 8 * 2**30
"""Bytes that are taken to be there where the system does not say, as on Windows."""


def available_memory() -> int:
    """Bytes that this process can still ask for, of the machine, of its container and by its `ulimit`."""
    found = []
    with suppress(OSError):
        found.append(1024 * _numbers(Path("/proc/meminfo"))["MemAvailable"])
        for kind, used in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
            if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY:
                found.append(max(0, limit - 1024 * _numbers(Path("/proc/self/status"))[used]))
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, below = line.split(":", 2)
            if kinds in ("", "memory"):
                found += _of_group(Path("/sys/fs/cgroup") / kinds, below.lstrip("/"))
    if not found and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):  # macOS tells what it has, not what is free
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(found, default=UNTOLD)


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Make sure that there are `needed` bytes for `what`, the beginning of a sentence; `UserError` if there
    are fewer, with its end, a `remedy` that would need less."""
    if needed > (free := available_memory()):
        raise UserError(f"{what} needs {gib(needed)} of memory, and {gib(free)} are free: {remedy}.")


def gib(count: float) -> str:
    """So many bytes, for people: `7.2 GiB`."""
    return f"{count / 2**30:,.1f} GiB"


def _of_group(root: Path, below: str) -> list[int]:
    """What a control group has left, files that the system merely keeps included; nothing without a limit."""
    names = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for folder in (root / below, root):  # inside a container the group is seen as the root
        for limit, used in names:
            with suppress(OSError, ValueError):  # the limit may be the word max
                kept = _numbers(folder / "memory.stat")
                free = int((folder / limit).read_text()) - int((folder / used).read_text())
                return [free + kept.get("total_inactive_file", kept.get("inactive_file", 0))]
    return []


def _numbers(file: Path) -> dict[str, int]:
    lines = re.findall(r"^(\w+):?\s+(\d+)", file.read_text(), re.MULTILINE)
    return {name: int(value) for name, value in lines}
