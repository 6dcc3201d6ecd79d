"""What a script's process does with memory that tensors have freed."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is asked")
FAULTS = """
import resource
from vitals.runs.held_memory import importing_torch
with importing_torch():
    import torch
def step():
    for _ in range(10):
        torch.zeros(2**22)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    """Pages that the system gave a script while it made and freed ten tensors of 16 MiB, 4,096 pages each,
    for the second time."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env={**given, **environment}, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_that_tensors_free_is_kept() -> None:
    assert faults() < 400


def test_what_the_user_has_set_counts_more() -> None:
    assert faults(MALLOC_MMAP_THRESHOLD_="65536") > 10 * 4_000
