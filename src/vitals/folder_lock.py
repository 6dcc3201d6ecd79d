"""Which process is at work in a folder: a lock that ends with it, beside its host, number and start.

The lock is `.lock` in the folder; the rest stands in its `status.json`, for the sentence that names the
process, and for file systems without locks.
"""

import errno
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vitals.errors import UserError

LOCK = ".lock"
PATIENCE = 1.0
"""Seconds to wait for another process to end."""
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def this_process() -> dict[str, Any]:
    """`host`, `process` (its number), and `process_started`, which tells it from a later one so numbered."""
    number = os.getpid()
    return {"host": platform.node(), "process": number, "process_started": _start_of(number)}


@contextmanager
def held(folder: Path, record: Mapping[str, Any]) -> Iterator[bool]:
    """Within it, no other process is at work in `folder`, which must exist; whether the file system has locks
    to make sure. `record` is what its `status.json` says. `UserError` naming the process, if there is one, or
    if the folder cannot be written to."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except NotImplementedError:  # no locks here
        pass
    except (Timeout, RuntimeError):
        raise occupied(folder, record) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise UserError(f"{folder} cannot be written to: {error.strerror or error}.") from None
    if not lock.is_locked and record.get("status") == "running" and _lives(record):
        raise occupied(folder, record)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def is_at_work(folder: Path, record: Mapping[str, Any]) -> bool | None:
    """Whether the process that wrote `record`, the `status.json` of `folder`, still works there; None where
    nobody can know. The folder may have been copied or moved."""
    if record.get("status") != "running":
        return False
    file = folder / LOCK
    if record.get("locked") is not False and file.exists() and not file.is_symlink():  # which it would empty
        try:
            with FileLock(file, timeout=0):
                if record.get("locked"):
                    return False
        except NotImplementedError:  # no locks here
            pass
        except (Timeout, RuntimeError):  # the latter where this very process holds it
            return True
        except OSError:  # such as a folder that is for reading alone
            pass
    return _lives(record)


def truthful(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `status.json` says, but `killed` instead of `running` where its process is gone."""
    if is_at_work(folder, record) is not False or record.get("status") != "running":
        return dict(record)
    return {**record, "status": "killed", "error": f"{_named(record)} ended without a word"}


def occupied(folder: Path, record: Mapping[str, Any]) -> UserError:
    """What is said to a second process."""
    return UserError(f"{folder} is in use: {_named(record)} is at work in it; wait for it to end, or end it.")


def _named(record: Mapping[str, Any]) -> str:
    return f"process {record.get('process', 'unknown')} on {record.get('host', 'an unknown host')}"


def _lives(record: Mapping[str, Any]) -> bool | None:
    """Whether the recorded process lives, where it is one of this machine."""
    number, start = record.get("process"), record.get("process_started")
    if record.get("host") != platform.node() or not isinstance(number, int):
        return None
    now = _start_of(number)
    if now is None:
        return False if Path("/proc/self/stat").exists() else None
    return now == start if start else None


def _start_of(process: int) -> str | None:
    """When a process was started, in the words of the system; None where it says nothing."""
    try:
        if Path("/proc/self/stat").exists():
            # After the name, which may hold spaces and parentheses: the third field is the first here.
            fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return None if fields[0] in "ZX" else f"{fields[19]} ticks after boot {boot}"
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(process)], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
