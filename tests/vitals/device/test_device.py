"""On an accelerator: the same verdicts as on a CPU, the same training to the bit, and no step that waits.

One stands in for a GPU everywhere: it refuses what CUDA refuses and counts what CUDA waits for, but computes
on the host. Where there is a GPU, it is tried as well.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

HERE = Path(__file__).parent
NAME = "hostdevice"

no_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="builds an extension of torch: no c++ here")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
on_host = pytest.mark.parametrize("seen", [pytest.param(NAME, marks=no_compiler)], indirect=True)
on_each = pytest.mark.parametrize(
    "seen", [pytest.param(NAME, marks=no_compiler), pytest.param("cuda", marks=no_gpu)], indirect=True
)


@pytest.fixture(scope="module")
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> dict[str, Any]:
    """What `trainings.py` saw on this device; the workers of one session run it once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / request.param
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "seen.json").exists():
            command = [sys.executable, str(HERE / "trainings.py"), str(folder), request.param]
            environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # or it is not deterministic
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            assert done.returncode == 0, done.stderr[-3000:]
    return {"on": request.param, **json.loads((folder / "seen.json").read_text())}


@on_each
@pytest.mark.parametrize("kind", ["classifier", "adversaries"])
def test_watched_or_not_it_is_the_same_training(seen: dict[str, Any], kind: str) -> None:
    for on in ("cpu", seen["on"]):
        of = seen["watched_and_not"][f"{on} {kind}"]
        assert of["watched"] == of["plain"]


@on_each
@pytest.mark.parametrize("kind", ["classifier", "adversaries"])
def test_verdicts_are_those_of_the_cpu(seen: dict[str, Any], kind: str) -> None:
    of, on = seen["watched_and_not"], seen["on"]
    if on == NAME:
        assert of[f"cpu {kind}"]["plain"] == of[f"{on} {kind}"]["plain"]  # the device computes as it says
    assert of[f"{on} {kind}"]["verdicts"] == of[f"cpu {kind}"]["verdicts"]
    assert len(of[f"cpu {kind}"]["verdicts"]) > 9


@on_host
@pytest.mark.parametrize("kind", ["classifier", "adversaries"])
def test_a_device_without_double_precision_has_the_same_verdicts(seen: dict[str, Any], kind: str) -> None:
    cpu, without = seen["watched_and_not"][f"cpu {kind}"], seen["without_double"][kind]
    assert without["verdicts"] == cpu["verdicts"]
    assert without["watched"] == cpu["plain"]


@on_host
def test_the_average_is_that_of_the_cpu(seen: dict[str, Any]) -> None:
    assert seen["averaged"][NAME] == seen["averaged"]["cpu"]


@on_each
@pytest.mark.parametrize(
    ("trouble", "where", "exact", "message"),
    [
        ("nan_image", "input", True, "the batch itself holds NaN or infinity, batch 7 of epoch 1."),
        ("nan_weight", "net.5.weight", False, "the weights of 'net.5.weight' are not finite"),
        ("huge_weights", "loss", False, "The weights had grown to 3e+38 before it."),
        ("infinite_loss", "loss", False, "so that a layer overflowed or the loss itself did."),
    ],
)
def test_what_was_not_finite_is_told_some_steps_later(
    seen: dict[str, Any], trouble: str, where: str, exact: bool, message: str
) -> None:
    [found] = seen["not_finite"][trouble]
    assert found[:2] == [where, 6]
    assert "in step 7" in found[2]
    assert message in found[2]
    assert found[3] is exact


@on_each
def test_a_step_left_out_leaves_everything_finite(seen: dict[str, Any]) -> None:
    assert all(seen["not_finite"]["skipped"])


@on_host
def test_most_steps_wait_no_more_than_without_monitors(seen: dict[str, Any]) -> None:
    plain, watched = seen["waits"]["plain"], seen["waits"]["watched"]
    assert len(plain) == len(watched) > 100
    carried = statistics.mode(plain)  # images and labels
    assert carried == statistics.mode(watched) == 2
    assert sum(count == carried for count in watched) > 0.65 * len(watched)
