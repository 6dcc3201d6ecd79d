"""Sweeps as they are typed: real jobs, each in a process of its own."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import commands
import pytest
import torch
from blobs import WORDS

from vitals.errors import UserError
from vitals.runs.provenance import usable_cpus
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.job import is_finished

TINY = [*WORDS, "data.limit=100", "data.batch_size=32", "network.widths=[4,4]", "checks=none"]
TINY += ["average=none", "callbacks=none", "trainer.accelerator=cpu", "schedule.warmup_epochs=0"]
TINY += ["diagnosis.report=false"]


def sweep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return commands.run("train", "-m", *words, folder=folder)


def jobs(folder: Path) -> list[Path]:
    return [file.parent for file in sorted(folder.rglob("job.json"))]


def statuses(folder: Path) -> list[str]:
    return [RunFolder(job).read_status()["status"] for job in jobs(folder)]


def epochs(job: Path) -> list[str]:
    with (job / "metrics.csv").open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_an_interrupted_sweep_is_continued_where_its_jobs_were_and_a_failed_one_runs_again(
    tmp_path: Path,
) -> None:
    words = ["seed=0", "trainer.max_epochs=15", "trainer.strategy=nonsense,auto,single_device"]
    process = commands.Started("train", "-m", *TINY, *words, "hydra.sweep.dir=sweep", folder=tmp_path)
    commands.wait_for(tmp_path, "last.ckpt")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "interrupted" in statuses(tmp_path)
    assert "running" not in statuses(tmp_path)
    # One that is interrupted amid its first epoch has a checkpoint, too.
    begun = [job for job in jobs(tmp_path) if [*job.rglob("last.ckpt")] and not is_finished(job)]

    done = sweep(tmp_path.parent, f"resume_sweep={tmp_path / 'sweep'}")
    assert (done.returncode, statuses(tmp_path)) == (1, ["failed", "finished", "finished"])
    assert "-m resume_sweep=" in done.stdout
    failed, *others = jobs(tmp_path)
    assert failed.name == "0_trainer.strategy-nonsense"
    assert "nonsense" in RunFolder(failed).read_status()["error"]
    assert "nonsense" in (failed / "output.log").read_text()
    for job in others:
        assert epochs(job) == [str(epoch) for epoch in range(1, 16)]
        resumed = "resumed" in (job / "config.yaml").read_text()
        assert resumed == (job in begun)
    command = shlex.split(json.loads((others[0] / "job.json").read_text())["command"])
    assert command[0] == "env"
    assert "train.py" in [Path(word).name for word in command]
    assert "would change the jobs" in sweep(tmp_path, "resume_sweep=sweep", "optimizer.lr=1").stderr
    assert "holds a sweep already" in sweep(tmp_path, *TINY, "hydra.sweep.dir=sweep").stderr
    with pytest.raises(UserError, match="is the folder of a sweep"):
        RunFolder.existing(tmp_path / "sweep", "resume")


def test_a_wrong_range_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = sweep(tmp_path, *TINY, "optimizer.lr=interval(1,0.1)")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr.strip() == "optimizer.lr=interval(1,0.1) is no range: its ends must rise."


def test_values_go_together_where_zip_says_so_and_repeats_have_a_seed_each(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=1", "optimizer.lr=0.1,0.01", "network.dropout=choice(0,0.5)", "repeats=2"]
    done = sweep(tmp_path, *TINY, *words, "zip=[optimizer.lr,network.dropout]", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    configs = [RunFolder(job).read_config() for job in jobs(tmp_path)]
    seed = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["seed"]
    assert [(config.optimizer.lr, config.network.dropout, config.seed) for config in configs] == [
        (rate, dropout, each) for rate, dropout in ((0.1, 0), (0.01, 0.5)) for each in (seed, seed + 1)
    ]
    first = done.stdout.splitlines()[0]
    assert first.startswith("sweep in sweep: 4 jobs, ")
    assert first.endswith(f"at a time on {usable_cpus()} CPU cores, seeds {seed} to {seed + 1}")
    assert "Over seeds" in done.stdout


EDITS_ITSELF = """
from pathlib import Path
from blobs import Tiny
Path("mine.py").write_text("raise RuntimeError('this was edited')")
class Mine(Tiny): pass
"""


def test_edits_during_a_sweep_change_no_later_job(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(EDITS_ITSELF)
    words = [
        "trainer.max_epochs=1",
        "network._target_=mine.Mine",
        f"launcher.devices_per_job={usable_cpus()}",
    ]
    done = sweep(tmp_path, *TINY, *words, "optimizer.lr=0.1,0.01", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "edited" in (tmp_path / "mine.py").read_text()
    done = sweep(tmp_path, "resume_sweep=sweep")
    assert done.stdout.splitlines()[1].startswith("edited since the sweep began: mine.py; its jobs keep to")

    (tmp_path / "mine.py").write_text(EDITS_ITSELF)
    (folder := jobs(tmp_path)[1] / "status.json").write_text('{"status": "failed"}')
    shutil.rmtree(folder.parent / "checkpoints")
    shutil.rmtree(tmp_path / "sweep" / "code")
    done = sweep(tmp_path, "resume_sweep=sweep")
    assert statuses(tmp_path) == ["finished", "finished"]
    assert "job 1 finished: ran the code as it was at " in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["zip=[optimizer.lr,seed]"], "must be as many of each: optimizer.lr has 2, seed has 3."),
        (["zip=[optimizer.l,seed]"], "no values are given for optimizer.l; did you mean optimizer.lr?"),
        (["zip=optimizer.lr"], "zip=optimizer.lr is not allowed: it must be a list of keys"),
        (["repeats=2"], "repeats=2 and seed=1,2,3 both say which seeds there are: leave one out."),
    ],
)
def test_values_that_do_not_fit_together_are_refused_before_anything_is_written(
    words: list[str], said: str, tmp_path: Path
) -> None:
    done = sweep(tmp_path, *TINY, "optimizer.lr=0.1,0.01", "seed=1,2,3", *words)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("choice", ["hydra/sweeper=basic", "hydra/launcher=basic"])
def test_hydras_own_launchers_and_sweepers_are_refused_before_anything_is_written(
    choice: str, tmp_path: Path
) -> None:
    done = sweep(tmp_path, *TINY, "seed=0,1", choice)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr.strip().startswith(f"{choice}: Hydra's own launchers and sweepers are not used here")
    assert "launcher=local" in done.stderr


def test_ddp_jobs_train_once_each_at_their_own_rate(tmp_path: Path) -> None:
    """Under Hydra's basic launcher the second rank runs the whole sweep, under Optuna at another rate."""
    words = ["trainer.strategy=ddp", "trainer.max_epochs=1", "seed=0", "zip=[optimizer.lr,trainer.devices]"]
    done = sweep(tmp_path, *TINY, *words, "optimizer.lr=0.1,0.001", "trainer.devices=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = jobs(tmp_path)
    assert len(list(tmp_path.rglob("config.yaml"))) == 2
    assert [path.name for path in (tmp_path / "logs/blobs/sweeps").iterdir()] == [first.parent.name]
    for job, rate, processes in ((first, 0.1, 1), (second, 0.001, 2)):
        assert RunFolder(job).read_config().optimizer.lr == rate
        assert epochs(job) == ["1"]
        logs = ["train.log", "train_ddp_process_1.log"][:processes]
        assert sorted(file.name for file in job.glob("train*.log")) == logs
        assert len(json.loads((job / "job.json").read_text())["devices"]) == processes


def test_an_interval_is_searched_at_random_and_more_trials_continue_the_search(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=1", "optimizer.lr=tag(log,interval(1e-4,1))"]
    done = sweep(tmp_path, *TINY, *words, "hydra.sweep.dir=sweep", "search.trials=2")
    assert done.returncode == 0, done.stdout + done.stderr
    first = jobs(tmp_path)
    before = [(job / "metrics.csv").stat().st_mtime_ns for job in first]
    done = sweep(tmp_path, "resume_sweep=sweep", "search.trials=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert jobs(tmp_path)[:2] == first
    assert [(job / "metrics.csv").stat().st_mtime_ns for job in first] == before
    rates = [RunFolder(job).read_config().optimizer.lr for job in jobs(tmp_path)]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1 for rate in rates)
    assert len({RunFolder(job).read_config().seed for job in jobs(tmp_path)}) == 1

    # The command of a job alone, in another folder and where torch would take more threads.
    command = shlex.split(json.loads((first[0] / "job.json").read_text())["command"])
    script = next(place for place, word in enumerate(command) if word.endswith("train.py"))
    words = [word for word in command[script + 1 :] if not word.startswith("hydra.run.dir=")]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    alone = commands.run("train", *words, "hydra.run.dir=alone", folder=tmp_path)
    torch.set_num_threads(threads)
    assert alone.returncode == 0, alone.stderr
    configs = [RunFolder(folder).read_config() for folder in (first[0], tmp_path / "alone")]
    assert [config.threads for config in configs] == [threads, threads]
    weights = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (first[0], tmp_path / "alone")
    ]
    assert all(torch.equal(one, other) for one, other in zip(*map(dict.values, weights), strict=True))


def test_coarse_to_fine_trains_fewer_and_longer_in_the_span_of_the_best(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=3", "search=coarse_to_fine", "search.trials=3", "seed=0"]
    words += ["search.stage_epochs=[1,2,null]", "search.stage_jobs=[1.0,2,1]", "optimizer.momentum=0.9"]
    done = sweep(tmp_path, *TINY, *words, "optimizer.weight_decay=0", "network.dropout=0")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [(len(epochs(job)), RunFolder(job)) for job in sorted(jobs(tmp_path), key=lambda job: job.name)]
    assert [count for count, _ in runs] == [1, 1, 1, 2, 2, 3]
    rates = [run.read_config().optimizer.lr for _, run in runs]
    score = [run.read_status()["metrics"]["best/accuracy_val"] for _, run in runs]
    best_two = sorted(rates[:3], key=lambda rate: -score[rates.index(rate)])[:2]
    assert rates[3] == best_two[0]
    assert all(min(best_two) / 3.2 <= rate <= max(best_two) * 3.2 for rate in rates[3:5])
