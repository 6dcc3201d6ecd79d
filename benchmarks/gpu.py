"""What only a GPU can tell, in one command: `python -m benchmarks.gpu --root DIR --airbench DIR`.

`steps`: no step waits for the device between two measurements, under `torch.cuda.set_sync_debug_mode`.
`train`: `experiment=fast_gpu`, every monitor on, beside a script of github.com/KellerJordan/cifar10-airbench
that you have fetched, on the same images, without its `torch.compile`: accuracy, and seconds from the first
step to the last figure of the test images; what comes before, and what the first run takes beyond the others,
apart. `monitors`: the cost of each, with every launch waited for, so that each has its own. `sweep`: the
queue on the devices that are there. `compiled`: airbench's script once more as it is, last, since it compiles
for minutes; it is broken off after `--minutes` of all together.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import OmegaConf

import project.build
from benchmarks.compare import composed, data_of, fit, synthetic_images
from benchmarks.machine import ROOT, figure, print_where_and_when
from project.build import build_data
from project.train import train
from vitals.command_line import CONFIGS
from vitals.monitors.monitor import Monitor
from vitals.runs.evaluate import evaluate
from vitals.runs.instantiate import build_callbacks
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

EXPERIMENT = "experiment=fast_gpu"
EVERY, EARLY = 10, 20
"""Steps between two measurements while steps are looked at, and those before which some look at each."""
MEASURED = ("learning_curves", "update_ratio", "histograms", "filters", "non_finite")
OF_STEPS = ["trainer.max_epochs=2", "trainer.limit_val_batches=0", "~callbacks.progress"]
OF_STEPS += [f"callbacks.{name}.every_n_steps={EVERY}" for name in MEASURED]
OF_STEPS += [f"callbacks.{name}.times_per_run=null" for name in MEASURED]


class NoWaiting(L.Callback):
    """Bans waiting for the device in the steps between two measurements, and what Lightning does around them.

    Measurements take place every `EVERY` steps. An epoch that begins or ends may wait.

    Args:
        ban: a context in which whatever waits is found out.
    """

    def __init__(self, ban: Callable[[], AbstractContextManager[Any]]) -> None:
        self.ban = ban
        self.banned: AbstractContextManager[Any] | None = None
        self.steps = 0
        """Whole ones so far in which nothing was to wait."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % EVERY == EVERY - 2:
            self._lift()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += self.banned is not None
        if trainer.is_last_batch:
            self._lift()
        elif trainer.global_step > EARLY and trainer.global_step % EVERY == 2 and batch_idx > 1:
            self.banned = self.ban()
            self.banned.__enter__()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._lift()

    def _lift(self) -> None:
        if self.banned is not None:
            self.banned.__exit__(None, None, None)
            self.banned = None


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def unwaiting_steps(words: Sequence[str], ban: Callable[[], AbstractContextManager[Any]]) -> int:
    """Steps of a training with these words in which every monitor was there and nothing waited.

    Raises:
        SystemExit: where something did, naming it.
    """
    config = composed(*OF_STEPS, *words)
    data = data_of(config, synthetic_images(40 * config.data.batch_size))
    watch, callbacks = NoWaiting(ban), build_callbacks(config)
    try:
        with redirect_stdout(StringIO()):
            fit(config, data, [*callbacks, watch])
    except RuntimeError as error:
        own = [
            place
            for place in traceback.extract_tb(error.__traceback__)
            if "torch" not in Path(place.filename).parts and place.name != "__torch_dispatch__"
        ]
        raise SystemExit(f"a step waits: {own[-1].filename}:{own[-1].lineno}: {error}") from error
    silent = [each for callback in callbacks if isinstance(callback, Monitor) for each in callback.findings]
    if silent:
        raise SystemExit(f"a monitor waits: {silent[0].message}")
    return watch.steps


class Clock(L.Callback):
    """Writes to the run's folder how many seconds went by from the first step to the last figure of the test,
    with all that the callbacks do between them."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:  # after the checks, which `on_train_start` has
            self.start = _now()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (Path(trainer.default_root_dir) / "seconds").write_text(repr(_now() - self.start))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(words: Sequence[str], runs: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """Test accuracies of `runs` runs, by one view of each image and by six, their seconds from the first step
    to the test, and their seconds in all; the first run has what is done once a process, and the checks."""
    accuracies, augmented, seconds, wholes = list[float](), list[float](), list[float](), list[float]()
    for seed in range(runs):
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            checks = ["checks=none"] if seed else []  # which take longer than the training
            clock = "+callbacks.clock._target_=benchmarks.gpu.Clock"
            config = composed(*words, *checks, f"seed={seed}", clock)
            start = _now()
            metrics = run(config, RunFolder(folder), train)
            wholes.append(_now() - start)
            accuracies.append(metrics["test/accuracy"])
            seconds.append(float((Path(folder) / "seconds").read_text()))
            options: Any = OmegaConf.load(CONFIGS / "evaluate.yaml")
            options.run, options.tta = folder, "full"
            evaluated = evaluate(options, project.build)
            augmented.append(evaluated["accuracy/test"])
        done = f"{accuracies[-1]:.4f}, {augmented[-1]:.4f} by six views, {seconds[-1]:.2f} s"
        print(f"run {seed + 1}: {done} of {wholes[-1]:.1f}, {_now() - start:.1f} with the views", flush=True)
    return accuracies, augmented, seconds, wholes


def theirs(
    script: Path, words: Sequence[str], runs: int, compiled: bool, limit: float | None = None
) -> tuple[list[float], list[float], list[float]]:
    """Accuracies of a script of airbench in `runs` runs, without and with its test-time augmentation, and the
    seconds that it counts, on the images of these words.

    It runs in a folder of its own, where it finds the images, told of its 200 runs to make fewer, and, unless
    `compiled`, to leave `torch.compile` out. After `limit` seconds it is broken off.

    Raises:
        SystemExit: if it ends in an error, not in time, or prints another table than it did in 2024.
    """
    data = build_data(composed(*words))
    data.setup()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "cifar10").mkdir()
        for part, images in {"train": data.train, "test": data.test}.items():
            content = {"images": images.images.permute(0, 2, 3, 1).contiguous(), "labels": images.labels}
            torch.save({**content, "classes": data.classes}, Path(name) / "cifar10" / f"{part}.pt")
        code = script.read_text().replace("range(200)", f"range({runs})")
        if not compiled:
            code = re.sub(r"@torch\.compile.*|\bmodel\.compile\(.*\)", "", code)
        (Path(name) / script.name).write_text(code)
        command = [sys.executable, script.name]
        try:
            ended = subprocess.run(
                command, cwd=name, capture_output=True, text=True, check=False, timeout=limit
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{script.name}: not done after {limit:.0f} s, most of them compiling") from None
    if ended.returncode:
        raise SystemExit(f"{script} ended with code {ended.returncode}: {ended.stderr.strip()[-500:]}")
    cells = [
        line.split("|")[1:-1] for line in ended.stdout.splitlines() if re.search(r"\|\s*eval\s*\|", line)
    ]
    rows = [[float(cell) for cell in row[-3:]] for row in cells[-runs:]]
    if len(rows) < runs:
        raise SystemExit(f"{script} prints another table than is known here: {ended.stdout.strip()[-500:]}")
    plain, augmented, seconds = map(list, zip(*rows, strict=True))
    return plain, augmented, seconds


def print_training(words: Sequence[str], airbench: str | None, script: str, runs: int) -> list[float]:
    """Our runs and theirs; the seconds of ours."""
    accuracies, augmented, seconds, wholes = ours(words, runs + 1)  # the first warms up, as theirs does
    print(f"fast_gpu: test accuracy {figure(accuracies[1:], '.4f')} without test-time augmentation")
    print(f"fast_gpu: test accuracy {figure(augmented[1:], '.4f')} by six views of each image")
    print(f"fast_gpu: {figure(seconds[1:], '.2f')} s from the first step to the last figure of the test")
    outside = [whole - inside for whole, inside in zip(wholes, seconds, strict=True)]
    print(f"fast_gpu: {figure(outside[1:], '.2f')} s around it: images, page")
    more = wholes[0] - statistics.median(wholes[1:])
    print(f"fast_gpu: {more:.1f} s more in the first run of the process, with the checks", flush=True)
    if airbench is None:
        print("airbench: not measured; fetch it, and give its folder with --airbench")
    else:
        of_theirs = theirs(Path(airbench) / script, words, runs, compiled=False)
        print_theirs(f"{script}, not compiled", of_theirs, seconds[1:])
    return seconds[1:]


def print_theirs(
    name: str, of_theirs: tuple[list[float], list[float], list[float]], seconds: Sequence[float]
) -> None:
    """What `theirs` found, beside our seconds, where they were measured."""
    plain, views, taken = of_theirs
    print(f"{name}: test accuracy {figure(plain, '.4f')} without test-time augmentation")
    print(f"{name}: test accuracy {figure(views, '.4f')} with its own")
    print(f"{name}: {figure(taken, '.2f')} s as it counts them, start-up left out")
    if seconds:
        ratio = statistics.fmean(seconds) / statistics.fmean(taken)
        print(f"fast_gpu / {name}: {ratio:.2f} times the time", flush=True)


def print_monitors() -> None:
    """Their costs as `benchmarks.monitors` has them."""
    waiting = {**os.environ, "CUDA_LAUNCH_BLOCKING": "1"}
    command = [sys.executable, "-m", "benchmarks.monitors", "--rounds", "3", "--measurements", "8"]
    subprocess.run(command, cwd=ROOT, env=waiting, check=True)


def print_sweep(words: Sequence[str]) -> None:
    """Seconds that four jobs take, in the queue and one after the other."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py")]
    common = [*words, "trainer.max_epochs=2", "~callbacks.progress"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [*command, "-m", *common, "seed=0,1,2,3"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        queue = time.perf_counter() - start
        start = time.perf_counter()
        subprocess.run([*command, *common, "seed=0"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        alone = time.perf_counter() - start
    devices = torch.cuda.device_count()
    print(f"sweep: 4 jobs in {queue:.1f} s on {devices} GPU(s); one by itself takes {alone:.1f} s")


def main() -> None:
    begun = time.monotonic()
    parts = ("steps", "train", "monitors", "sweep", "compiled")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", default=[], help="of the command line of scripts/train.py")
    parser.add_argument("--root", required=True, help="folder of CIFAR-10, as data.root")
    parser.add_argument("--airbench", help="folder with a checkout of cifar10-airbench")
    parser.add_argument("--script", default="airbench94_muon.py", help="in it: also airbench96_faster.py")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which all is over")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    arguments = parser.parse_intermixed_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a GPU that torch can use, and there is none here.")
    if arguments.airbench and not (Path(arguments.airbench) / arguments.script).is_file():
        raise SystemExit(
            f"{arguments.airbench} has no {arguments.script}: give a checkout of cifar10-airbench."
        )
    words = [EXPERIMENT, f"data.root={Path(arguments.root).resolve()}", *arguments.words]
    part = arguments.parts
    if "steps" in part:
        print(f"steps: nothing waited in {unwaiting_steps(words, no_synchronization)} steps")
    seconds = list[float]()
    if "train" in part:
        seconds = print_training(words, arguments.airbench, arguments.script, arguments.runs)
    if "monitors" in part:
        print_monitors()
    if "sweep" in part:
        print_sweep(words)
    print_where_and_when()
    if "compiled" in part and arguments.airbench:
        left = 60 * arguments.minutes - (time.monotonic() - begun)
        script = Path(arguments.airbench) / arguments.script
        found = theirs(script, words, arguments.runs, compiled=True, limit=max(left, 1.0))
        print_theirs(f"{arguments.script}, as it compiles", found, seconds)


if __name__ == "__main__":
    main()
