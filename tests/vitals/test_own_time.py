"""The clock for limits of time."""

import time

import pytest

from vitals import own_time as own_time_module
from vitals.own_time import own_time


def test_it_stands_still_while_others_have_the_processor(tmp_path, monkeypatch: pytest.MonkeyPatch):
    waited = tmp_path / "schedstat"
    monkeypatch.setattr(own_time_module, "WAITED", waited)
    assert own_time() == pytest.approx(time.perf_counter(), abs=5)  # there is no such file
    waited.write_text("7 100000000000 3\n")
    assert own_time() == pytest.approx(time.perf_counter() - 100, abs=5)
    waited.write_text("")
    assert own_time() == pytest.approx(time.perf_counter(), abs=5)
