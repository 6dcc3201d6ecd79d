"""Where a run came from."""

import os

from vitals.runs.provenance import provenance


def test_the_processors_are_counted_where_the_system_knows_no_affinity(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # macOS, Windows
    assert provenance()["machine"]["cpus"] == os.cpu_count()
