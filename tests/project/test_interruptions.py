"""Signals at every station of a run, the same command again, and who is at work in a folder."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.commands import Started, run, wait_for
from vitals.errors import UserError
from vitals.folder_lock import held, this_process, truthful
from vitals.runs.run_folder import RunFolder

WORDS = ["data=digits", "data.limit=100", "data.batch_size=32", "network.widths=[4,4]", "seed=0"]
WORDS += ["trainer.max_epochs=2", "~callbacks.progress", "checks.which=[loss_at_chance]"]
WORDS += ["diagnosis.report=false", "callbacks=light"]
STATIONS = """
import os, signal, time
from pathlib import Path

import lightning as L

class Stations(L.Callback):
    "At the first of `names` at which no signal was sent yet, send one to this process."

    def __init__(self, names=()):
        self.names, self.here = list(names), []

    def _at(self, name, trainer):
        sent = Path(trainer.default_root_dir, "sent")
        done = sent.read_text().split() if sent.exists() else []
        if self.names[len(done):][:1] == [name]:
            sent.write_text(" ".join([*done, name]))
            self.here.append(name)
            os.kill(os.getpid(), signal.SIGTERM if len(done) % 2 else signal.SIGINT)

    def on_train_start(self, trainer, *_): self._at("checks", trainer)
    def on_train_batch_end(self, trainer, *_): self._at("training", trainer)
    def on_validation_start(self, trainer, *_): self._at("validation", trainer)
    def on_validation_end(self, trainer, *_): assert "validation" not in self.here
    def on_train_end(self, trainer, *_): self._at("end", trainer)
    def on_test_batch_end(self, trainer, *_): self._at("test", trainer)

class Slow(L.Callback):
    def on_train_batch_end(self, trainer, *_): time.sleep(float(Path("seconds").read_text()))
"""


def test_the_same_command_again_goes_on_at_every_station_and_says_when_it_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stations.py").write_text(STATIONS)
    monkeypatch.syspath_prepend(tmp_path)
    words = [*WORDS, "+callbacks.stations._target_=stations.Stations"]
    assert run("train", *words, "hydra.run.dir=straight", folder=tmp_path).returncode == 0
    words += ["+callbacks.stations.names=[checks,training,validation,end,test]", "resume=auto"]
    done = [run("train", *words, folder=tmp_path) for _ in range(7)]
    assert [each.returncode for each in done] == [130, 143, 130, 143, 130, 0, 0], done[-2].stderr
    [folder] = (tmp_path / "logs" / "digits").iterdir()
    for each in done[:5]:
        assert each.stdout.splitlines()[-1].endswith(f"resume=logs/digits/{folder.name}")
    assert done[-1].stdout.strip() == f"logs/digits/{folder.name} has finished: nothing is left to do."
    straight, broken = RunFolder(tmp_path / "straight"), RunFolder(folder)
    for file in ("metrics.csv", "findings.json", "predictions.npz"):
        assert (straight.path / file).read_bytes() == (broken.path / file).read_bytes(), file
    same = ("status", "metrics", "weights", "epoch", "step")
    assert [straight.read_status()[key] for key in same] == [broken.read_status()[key] for key in same]
    assert "all of its 2 epochs" in run("train", f"resume={folder}", folder=tmp_path).stderr

    refused = run("train", *WORDS, "hydra.run.dir=straight", "data.limit=90", "resume=auto", folder=tmp_path)
    assert refused.returncode == 2
    assert "straight holds a run of another configuration (data.limit)" in refused.stderr


def amid_an_epoch(checkpoint: Path) -> bool:
    progress = torch.load(checkpoint, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]["current"]
    return bool(progress["processed"] < progress["ready"])


def test_a_second_process_is_refused_and_a_second_signal_ends_the_first_at_once(tmp_path: Path) -> None:
    (tmp_path / "stations.py").write_text(STATIONS)
    (tmp_path / "seconds").write_text("0.01")
    words = [*WORDS, "trainer.max_epochs=1000", "+callbacks.slow._target_=stations.Slow", "checks=none"]
    first = Started("train", *words, "hydra.run.dir=run", folder=tmp_path)
    wait_for(tmp_path, "last.ckpt")
    folder = RunFolder(tmp_path / "run")
    assert folder.read_status()["status"] == "running"
    shutil.copytree(folder.path, tmp_path / "copy")
    assert RunFolder(tmp_path / "copy").read_status()["status"] == "killed"
    for more in (["resume=run"], [*words, "hydra.run.dir=run", "overwrite=true"]):
        refused = run("train", *more, folder=tmp_path)
        assert refused.returncode == 2
        assert f"run is in use: process {folder.read_status()['process']} on " in refused.stderr

    (tmp_path / "seconds").write_text("1")  # an epoch has three batches
    deadline = time.monotonic() + 20
    while not amid_an_epoch(folder.last_checkpoint) and time.monotonic() < deadline:
        first.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
    assert amid_an_epoch(folder.last_checkpoint)
    (tmp_path / "seconds").write_text("30")
    time.sleep(1.5)
    first.send_signal(signal.SIGTERM)
    time.sleep(0.3)  # or the system makes one of the two
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 143, first.output
    assert folder.read_status()["status"] == "interrupted"


def test_a_process_that_is_gone_is_known_by_its_start_where_a_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    mine = {"status": "running", "locked": False, **this_process()}
    assert truthful(tmp_path, mine) == mine
    with pytest.raises(UserError, match=f"process {os.getpid()} on "), held(tmp_path, mine):
        pass
    earlier = mine | {"process_started": "at another time"}
    assert truthful(tmp_path, earlier)["status"] == "killed"
    elsewhere = mine | {"host": "another"}
    assert truthful(tmp_path, elsewhere)["status"] == "running"  # nobody can know
    with held(tmp_path, elsewhere) as locked:
        assert not locked
