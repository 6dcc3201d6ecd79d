"""Whatever standard output is, what is said there ends no training."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from foreign import Foreign, fit, mlp, quick
from monitoring import some

from vitals.diagnosis.callback import Diagnosis


def nobody_reads_on() -> Any:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", buffering=1)


def closed() -> Any:
    out = io.StringIO()
    out.close()
    return out


OUTS: dict[str, Any] = {
    "ASCII alone": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
    "a file on Windows": lambda: io.TextIOWrapper(io.BytesIO(), encoding="cp1252"),
    "a pipe that nobody reads": nobody_reads_on,
    "closed": closed,
    "none": lambda: None,
}


@pytest.mark.parametrize("kind", OUTS)
def test_a_training_goes_on_whatever_standard_output_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, checks = OUTS[kind](), quick(checks=["layer_variance"])
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", out)
        trainer = fit(Foreign(mlp()), tmp_path, checks, Diagnosis(report=False), train=some(4))
    assert trainer.global_step == 4
    assert [row.check.name for row in checks.rows] == ["layer_variance"]
    if isinstance(out, io.TextIOWrapper) and isinstance(out.buffer, io.BytesIO):
        out.flush()
        assert "within" in out.buffer.getvalue().decode(out.encoding)
