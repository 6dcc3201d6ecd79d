"""The page that follows a run or a sweep: in a real browser while the folder grows, and to nobody else."""

from __future__ import annotations

import json
import math
import platform
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import needs_driver, opened, wait_until
from made_runs import write_config, write_metrics
from omegaconf import OmegaConf

from vitals.errors import UserError
from vitals.history import History
from vitals.metric import Metric
from vitals.report.live import LivePage, Server
from vitals.runs.config.validation import check_report
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.live import pages

ROOT = Path(__file__).parents[3]
SEEN = """return {
  state: document.querySelector("#live b").textContent,
  note: document.querySelector("#live [data-own]").textContent,
  charts: document.querySelectorAll("svg").length,
  open: document.querySelector("#configuration details").open,
  same: window.kept === document.getElementById("configuration"),
  top: Math.round(document.getElementById("accuracy").getBoundingClientRect().top),
};"""


@contextmanager
def watching(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Within it, `report.py --watch` serves the folder; the address it printed first, and its process."""
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), f"run={folder}", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            yield words[2], process
        finally:
            process.kill()


def answer_to(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def record_steps(folder: Path, steps: range, **more: float) -> None:
    history = History(folder / "history.jsonl")
    history.lines = 1  # of a file that is there already
    for step in steps:
        values = {"loss/train": 2 / step, "loss/val": 2.1 / step, "accuracy/val": 1 - 1 / step}
        history.add(step, step / 10, values | more)


@needs_driver
def test_a_page_follows_its_run_in_place_until_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder)
    run = RunFolder(folder)
    run.write_status("running", error=None)
    files = sorted(folder.iterdir())
    with watching(folder) as (address, server), opened(address) as browse:
        assert address.startswith("http://127.0.0.1:")
        seen = browse(SEEN)
        assert (seen["state"], seen["charts"]) == ("Running: no step was taken yet.", 0)
        browse("""window.kept = document.getElementById("configuration");
          kept.querySelector("details").open = true;""")

        record_steps(folder, range(1, 5))
        with (folder / "history.jsonl").open("a") as half:
            half.write('{"step": 5, "epoch": 0.5, "val')  # as another process finds it
        seen = wait_until(lambda: (now := browse(SEEN))["charts"] and now)
        assert seen["state"] == "Running: epoch 0.4, step 4."
        assert (seen["open"], seen["same"]) == (True, True)
        browse("""document.getElementById("accuracy").scrollIntoView();""")
        before = browse(SEEN)
        assert sorted(folder.iterdir()) == sorted([*files, folder / "history.jsonl"])

        ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
        ended.wait()
        dead = {"status": "running", "host": platform.node(), "process": ended.pid, "process_started": "then"}
        run.status.write_text(json.dumps(dead))
        wait_until(lambda: browse(SEEN)["state"].startswith("Killed: epoch 0.4"))
        record_steps(folder, range(5, 9), loss_noise=0.1)  # resumed
        run.write_status("finished", error=None)
        seen = wait_until(lambda: (now := browse(SEEN))["state"] == "Finished: epoch 0.8, step 8." and now)
        assert (seen["open"], seen["same"]) == (True, True)
        assert seen["charts"] > before["charts"]  # one of them above what is read, which stays where it was
        assert abs(seen["top"] - before["top"]) < 2

        refused = [answer_to(address + name) for name in ("config.yaml", "../run/status.json", "%2e%2e/run/")]
        refused += [answer_to(address, Host=host) for host in ("evil.example", "127.0.0.1.evil.example:80")]
        assert refused == [404, 404, 404, 403, 403]
        assert answer_to(address, Host="localhost:8888") == 200  # through a tunnel
        server.send_signal(signal.SIGINT)
        assert (server.wait(60), server.stderr.read()) == (0, "")  # type: ignore[union-attr]
        wait_until(lambda: browse(SEEN)["note"].startswith("No longer followed"))


def test_a_page_is_made_again_only_when_what_it_is_made_from_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitals.report.live.PATIENCE", 0.0)
    monkeypatch.setattr("vitals.report.live.SHARE", math.inf)
    versions, made = ["one"], []

    def make() -> str:
        made.append(versions[-1])
        if versions[-1] == "broken":
            raise ValueError("half written")
        return f"<p>{versions[-1]}</p>"

    page = LivePage(lambda: versions[-1], make)
    first = page.current()
    assert page.current() == first
    versions.append("broken")
    with pytest.raises(ValueError, match="half written"):
        page.current()
    versions.append("two")
    assert page.current()[1] == b"<p>two</p>"
    assert made == ["one", "broken", "two"]


def test_the_page_of_a_sweep_leads_to_those_of_its_jobs_and_nowhere_else(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep")
    folder.write_record(["optimizer.lr=0.1,0.2"], "scripts/train.py", Metric("accuracy/val", "max"))
    folder.add_to_record(jobs=3)
    for number, status in enumerate(("finished", "running")):
        job = folder.path / f"{number}_lr-{number}"
        job.mkdir()
        write_config(job)
        (job / "job.json").write_text(json.dumps({"words": [f"optimizer.lr={number + 1}"]}))
        RunFolder(job).write_status(status, error=None)  # type: ignore[arg-type]
    write_metrics(folder.path / "0_lr-0")
    find = pages(OmegaConf.create({"run": str(folder.path), "runs": None}))
    page = find("/").current()[1].decode()  # type: ignore[union-attr]
    assert "<b>1 finished, 1 running, 1 not started.</b>" in page
    assert "Jobs are still running" in page
    assert 'href="1_lr-1/report.html"' in page
    job = find("/1_lr-1/report.html")
    assert job is not None
    assert "Running: no step was taken yet." in job.current()[1].decode()
    assert [find(path) for path in ("/1_lr-1/config.yaml", "/sweep.json", "/..", "/../report.html")] == [
        None
    ] * 4


def test_a_port_that_is_taken_or_no_port_is_answered_with_one_sentence(tmp_path: Path) -> None:
    write_config(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port} cannot be used"):
            Server({}.get, port)
    for wrong, said in (
        ({"watch": True, "port": 99999}, r"port.*1 to 65535"),
        ({"port": 8080}, "add --watch"),
        ({"watch": True, "out": "page.html"}, "writes none"),
    ):
        with pytest.raises(UserError, match=said):
            check_report(OmegaConf.create({"run": str(tmp_path), "runs": None, **wrong}))
