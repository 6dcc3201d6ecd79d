"""What `vitals.diagnostics()` costs six trainings, by time and memory: `python -m benchmarks.checks`.

Each network trains for about ten seconds alone, and for as many steps with us: the difference are the
seconds of a ten-second run. Then with us once more, as a training of ten minutes that is broken off after a
while: the time before its first step, and what its steps take beside those alone, make the percent of it.
Each runs in a process of its own, whose peak memory is told. `--budget` is that of `diagnostics()`. Steps
and whole trainings are in seconds of one CPU core, which other work on the machine changes little; the time
before the first step is that of the clock on the wall, by which the budget goes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.machine import figure, print_where_and_when

SHORT, LONG = 10.0, 600.0
LOOKED_AT, EVERY = 10.0, 0.1
"""Seconds of steps of the long training that are made, and between two looks at the clock."""


class Module(L.LightningModule):
    def __init__(self, network: nn.Module, frozen: nn.Module | None = None, lr: float = 1e-3) -> None:
        super().__init__()
        self.network, self.frozen, self.lr = network, frozen, lr
        if frozen is not None:
            frozen.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        if self.frozen is not None:
            self.frozen.eval()

    def forward(self, x: Tensor) -> Any:
        if self.frozen is not None:
            with torch.no_grad():
                x = self.frozen(x)
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x).flatten(0, -2), y.flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, self.lr)


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(50, 32), nn.Parameter(torch.zeros(16, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.layers(self.embedding(tokens) + self.place, is_causal=True, mask=MASK)
        outputs: Tensor = self.head(hidden)
        return outputs


MASK = nn.Transformer.generate_square_subsequent_mask(16)


def mlp(width: int) -> Module:
    layers = [nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return Module(nn.Sequential(*layers, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)))


def subject(name: str) -> tuple[Module, DataLoader]:
    """A module, and its data: classes that show in the inputs."""
    import torchvision

    torch.manual_seed(0)
    if name == "small transformer":
        tokens = (torch.randint(50, (256, 1)) + torch.randint(1, 3, (256, 17)).cumsum(1)) % 50
        return Module(LanguageModel()), _loader(tokens[:, :-1], tokens[:, 1:], 32)
    if "MLP" in name:
        y = torch.arange(256) % 4
        x = torch.randn(256, 16) + F.one_hot(y, 16)
        return mlp(7000 if "98" in name else 64), _loader(x, y, 16)
    size, count = (32, 1024) if name == "our convnet" else (64, 64)
    y = torch.arange(count) % 5
    x = torch.randn(count, 3, size, size) + 0.5 * y[:, None, None, None]
    if name == "our convnet":
        from project.networks.convnet import ConvNet

        return Module(ConvNet(num_classes=5)), _loader(x, y, 128)
    if name == "frozen ResNet-50":
        backbone = torchvision.models.resnet50()
        backbone.fc = nn.Identity()
        return Module(nn.Linear(2048, 5), backbone), _loader(x, y, 16)
    return Module(torchvision.models.resnet18(num_classes=5)), _loader(x, y, 16)


NAMES = (
    "small MLP",
    "small transformer",
    "our convnet",
    "ResNet-18",
    "frozen ResNet-50",
    "MLP of 98 million",
)


def _loader(x: Tensor, y: Tensor, size: int) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True)


class Clock(L.Callback):
    """When the first step began and the last one ended; breaks off after `limit` seconds of steps."""

    def __init__(self, limit: float) -> None:
        self.limit, self.begun, self.steps = limit, 0.0, 0
        self.first, self.last = 0.0, 0.0
        """In CPU seconds."""
        self.counted, self.asked = 0, 0.0
        """Steps until the last of these, and when it was taken: on some machines that takes as long as a step
        of a small network."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        if not self.begun:
            self.begun = self.asked = time.perf_counter()
            self.first = time.process_time()

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.steps += 1
        if time.perf_counter() - self.asked > EVERY:
            self.counted, self.asked, self.last = self.steps, time.perf_counter(), time.process_time()
            trainer.should_stop = trainer.should_stop or self.last - self.first > self.limit


def train(name: str, steps: int, limit: float, watched: bool, budget: float | None) -> dict[str, float]:
    """One training of `steps` steps, or until `limit`: seconds before its first step, of a step, and of all,
    and the peak memory of the process in MiB."""
    import vitals

    module, data = subject(name)
    clock = Clock(limit)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            callbacks=[*(vitals.diagnostics(budget=budget) if watched else []), clock],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start, busy = time.perf_counter(), time.process_time()
        trainer.fit(module, data)
    return {
        "steps": clock.steps,
        "before": clock.begun - start,
        "step": (clock.last - clock.first) / clock.counted,
        "all": time.process_time() - busy,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def apart(name: str, steps: int, limit: float, watched: bool, budget: float | None) -> dict[str, float]:
    """`train` in a process of its own."""
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.checks",
        "--one",
        json.dumps([name, steps, limit, watched, budget]),
    ]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def costs(name: str, budget: float | None) -> tuple[float, ...]:
    """Further seconds of a run of ten, those before its first step, those before that of a run of ten
    minutes, the share of that in all; peak memory without us and with us."""
    alone = apart(name, 10**9, SHORT, False, None)
    short = apart(name, int(alone["steps"]), LONG, True, budget)
    long = apart(name, int(LONG / alone["step"]), LOOKED_AT, True, budget)
    print(name, json.dumps([alone, short, long]), file=sys.stderr)
    before = [run["before"] - alone["before"] for run in (short, long)]
    share = before[1] / LONG + long["step"] / alone["step"] - 1
    watched = max(short["memory"], long["memory"])
    return short["all"] - alone["all"], *before, share, alone["memory"], watched


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, help="seconds of the checks; the default rule without it")
    parser.add_argument("--rounds", type=int, default=1, help="how often each network is trained")
    parser.add_argument("--only", nargs="*", default=NAMES, help="names of the networks")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        print(json.dumps(train(*json.loads(arguments.one))))
        return
    table = Table(title="What diagnostics() costs", title_justify="left")
    table.add_column("")
    columns = ("10 s: further seconds", "before the first step", "10 min: before", "in all", "memory, MiB")
    for column in columns:
        table.add_column(column, justify="right")
    for name in arguments.only:
        measured = [costs(name, arguments.budget) for _ in range(arguments.rounds)]
        *seconds, shares, alone, watched = map(list, zip(*measured, strict=True))
        told = [figure(of_one, ".1f") for of_one in seconds]
        told += [figure(shares, ".1%"), f"{figure(alone, '.0f')} → {figure(watched, '.0f')}"]
        table.add_row(name, *told)
    Console().print(table)
    print_where_and_when()


if __name__ == "__main__":
    main()
