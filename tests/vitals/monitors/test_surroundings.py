"""A training step that draws from, counts in and writes to what lies outside of its module, in this one."""

from __future__ import annotations

import builtins
import csv
import importlib
import random
import sys
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, digits, fit, mlp, quick
from monitoring import some
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.tensorboard import SummaryWriter

import vitals
from vitals.probes.surroundings import surroundings_kept

ROWS = 96
numbers = np.random.default_rng(0)
draws = torch.Generator()
chances = random.Random(0)
seen = 0
recent: deque[Tensor] = deque(maxlen=40)
history: dict[str, list[float]] = {"loss": []}
shares = np.zeros(10)
centre = torch.zeros(10)
table: Any = None
writer: Any = None
kept: Any = None


class Statistics:
    """Of one's own, without a module."""

    def __init__(self) -> None:
        self.count, self.losses = 0, [0.0]


statistics = Statistics()


class ProxyOfNothing:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of request context")


proxy = ProxyOfNothing()


def begin(folder: Path) -> Any:
    global numbers, draws, chances, seen, shares, centre, table, writer, statistics
    folder.mkdir()
    numbers, chances = np.random.default_rng(3), random.Random(5)
    draws = torch.Generator().manual_seed(4)
    seen, shares, centre, statistics = 0, np.zeros(10), torch.zeros(10), Statistics()
    recent.clear()
    history["loss"].clear()
    Draws.of_class.clear()
    file = (folder / "table.csv").open("w", buffering=1)
    table, writer = csv.writer(file), SummaryWriter(str(folder / "events"))
    return file


class Noisy(Dataset):
    """Draws from the generator of the script."""

    def __init__(self) -> None:
        self.x, self.y = digits(ROWS)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] * float(numbers.uniform(0.9, 1.1)), self.y[index]


class Draws(Foreign):
    of_class: list[float] = []  # noqa: RUF012 (people do)

    def __init__(self, folder: Path) -> None:
        super().__init__(mlp())
        self.folder = folder

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        global seen
        x, y = batch
        seen += 1
        statistics.count += 1
        x = x + 0.1 * torch.randn(x.shape, generator=draws) + 0.01 * chances.random()
        x = x * (1 + 1e-3 * (seen + len(history["loss"]) + statistics.count + len(self.of_class)))
        np.add.at(shares, y.numpy(), 1)
        recent.extend(x)
        x = x + 0.01 * torch.stack(list(recent)).mean(0)
        outputs = self.net(x)
        loss = F.cross_entropy(outputs - 0.1 * centre, y) * (1 + 1e-3 * float(shares[0]))
        centre.lerp_(outputs.detach().mean(0), 0.1)
        for each in (history["loss"], statistics.losses, self.of_class):
            each.append(loss.item())
        table.writerow([seen, loss.item()])
        writer.add_scalar("loss", loss.item(), seen)
        with (self.folder / "lines.txt").open("a") as lines:
            lines.write(f"{seen} {loss.item()}\n")
        torch.save(outputs, self.folder / f"outputs-{len(list(self.folder.glob('*.pt')))}.pt")
        return loss


def trained(folder: Path, callbacks: list[L.Callback]) -> tuple[list[Tensor], dict[str, Any]]:
    """The weights that come of it, and what is left behind."""
    file = begin(folder)
    module = Draws(folder)
    data = DataLoader(Noisy(), batch_size=16, shuffle=True)
    fit(module, folder / "logs", *callbacks, train=data, max_epochs=2)
    file.close()
    writer.close()
    left = {
        "files": sorted(path.name for path in folder.iterdir() if path.name not in ("logs", "events")),
        "lines": [(folder / name).read_text() for name in ("table.csv", "lines.txt")],
        "counts": (seen, history["loss"], statistics.losses, shares.tolist(), centre.tolist()),
        "states": (numbers.bit_generator.state, draws.get_state().tolist(), chances.getstate()),
        "events": sum(path.stat().st_size for path in (folder / "events").iterdir()),
    }
    return [parameter.detach().clone() for parameter in module.parameters()], left


def test_what_lies_outside_of_the_module_is_as_it_would_be_without_a_look(tmp_path: Path) -> None:
    alone, left_alone = trained(tmp_path / "alone", [])
    watched, left = trained(tmp_path / "watched", vitals.diagnostics(budget=5))
    assert all(map(torch.equal, alone, watched))
    assert left == left_alone


def test_what_a_step_sees_of_the_function_around_it_stays(tmp_path: Path) -> None:
    counts, transferred, generator = [0], [0], np.random.default_rng(1)
    total = 0

    class Inside(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            nonlocal total
            total += 1
            counts[0] += 1
            return super().training_step((batch[0] * float(generator.uniform(0.5, 1.5)), batch[1]), batch_idx)

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            transferred[0] += self.trainer.training
            return batch

    def brought(samples: list[Any]) -> Any:
        return default_collate([(x * float(generator.uniform(0.5, 1.5)), y) for x, y in samples])

    train = some(4, collate_fn=brought)
    fit(Inside(mlp()), tmp_path, *vitals.diagnostics("light", budget=5), train=train)
    assert (total, counts, transferred) == (4, [4], [4])
    again = np.random.default_rng(1)
    again.uniform(size=4 + 4 * 16)
    assert generator.bit_generator.state == again.bit_generator.state


def counting(folder: Path, callbacks: list[L.Callback]) -> tuple[list[Tensor], list[Any]]:
    """Functions count that stand in the module's place: a step put over its own, a hook, one that collates,
    and what reads samples, of a class that a function has made."""
    module, steps, shapes, reads = Foreign(mlp()), [0], list[Any](), 0
    own, nothing = module.training_step, ProxyOfNothing()

    def step(batch: Any, batch_idx: int, lengths: list[int] = []) -> Tensor:  # noqa: B006 (people do)
        steps[0] += nothing is not None
        lengths.append(len(batch[0]))
        step.calls = getattr(step, "calls", 0) + 1  # type: ignore[attr-defined]
        return own(batch, batch_idx) * (1 + 1e-3 * (steps[0] + len(lengths)))

    class Counted(Dataset):
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, index: int) -> Any:
            nonlocal reads
            reads += 1
            return x[index] * (1 + 1e-4 * reads), y[index]

    def collate(samples: list[Any]) -> Any:
        shapes.append(len(samples))
        return default_collate(samples)

    x, y = digits(ROWS)
    module.training_step = step  # type: ignore[method-assign]
    module.net[1].register_forward_hook(lambda part, args, out: shapes.append(tuple(out.shape)))
    data = DataLoader(Counted(), batch_size=16, shuffle=True, collate_fn=collate)
    fit(module, folder, *callbacks, train=data, max_epochs=2)
    left = [steps, shapes, reads, step.calls, step.__defaults__]  # type: ignore[attr-defined]
    return [parameter.detach().clone() for parameter in module.parameters()], left


def test_what_functions_count_that_stand_in_the_place_of_methods_stays(tmp_path: Path) -> None:
    alone, left_alone = counting(tmp_path / "alone", [])
    watched, left = counting(tmp_path / "watched", vitals.diagnostics(budget=5))
    assert left == left_alone
    assert all(map(torch.equal, alone, watched))


class Augments(L.LightningDataModule):
    """Draws from a generator of its own for each batch, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.seen = np.random.default_rng(1), {"batches": 0}

    def train_dataloader(self) -> DataLoader:
        return some(4)

    def val_dataloader(self) -> DataLoader:
        return some(1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.seen["batches"] += 1
        return batch[0] * float(self.generator.uniform(0.5, 1.5)), batch[1]


def test_what_a_data_module_draws_and_counts_stays(tmp_path: Path) -> None:
    left = []
    for number, watching in enumerate(([], vitals.diagnostics("light", budget=5))):
        data, trainer = Augments(), fit_trainer(tmp_path / str(number), watching)
        trainer.fit(Foreign(mlp()), datamodule=data)
        left.append((data.seen, data.generator.bit_generator.state))
    assert left[0] == left[1]


def fit_trainer(folder: Path, callbacks: list[Any]) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"accelerator": "cpu", "max_epochs": 1, "logger": False, **quiet}
    return L.Trainer(default_root_dir=folder, callbacks=callbacks, **options)


def test_a_file_that_is_read_from_stays_open_and_where_it_was(tmp_path: Path) -> None:
    global kept
    (tmp_path / "numbers").write_bytes(bytes(range(100)))
    kept = (tmp_path / "numbers").open("rb")

    class Reads(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            [factor] = kept.read(1)
            return super().training_step(batch, batch_idx) * (1 + 1e-3 * factor)

    with kept:
        checks = quick(checks=["wiring"])
        fit(Reads(mlp()), tmp_path, checks, train=some(4))
        assert kept.tell() == 4
    assert [finding.cause for finding in checks.findings] == ["wiring-correct"]


def test_what_a_step_takes_from_an_iterator_of_the_script_is_not_taken(tmp_path: Path) -> None:
    global kept
    kept = iter(range(100))

    class Takes(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (1 + 1e-3 * next(kept))

    fit(Takes(mlp()), tmp_path, *vitals.diagnostics("light", budget=5), train=some(4))
    assert next(kept) == 4


class NeverEmpty(dict[str, Any]):
    """As other threads want it, who look up what it holds."""

    def clear(self) -> None:
        raise AssertionError("a table was empty for a moment")


def test_a_table_is_put_back_without_being_emptied_and_modules_stay_loaded(tmp_path: Path) -> None:
    global kept
    kept = {"names": NeverEmpty(a=1), "builtins": vars(builtins), "loaded": sys.modules}
    sys.modules.pop("colorsys", None)

    class Looks(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            kept["names"]["b"] = kept["names"].get("b", 0) + 1
            self.colours = importlib.import_module("colorsys")
            return super().training_step(batch, batch_idx)

    module, checks, before = Looks(mlp()), quick(checks=["wiring"]), list(vars(builtins))
    fit(module, tmp_path, checks, train=some(4))
    assert [finding.cause for finding in checks.findings] == ["wiring-correct"]
    assert kept["names"] == {"a": 1, "b": 4}
    assert list(vars(builtins)) == before
    assert sys.modules["colorsys"] is module.colours


def test_what_an_installer_has_put_beside_the_script_is_not_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bought", "mine"):
        (tmp_path / f"{name}.py").write_text("count = 0\n")
    (tmp_path / "bought-1.0.dist-info").mkdir()
    (tmp_path / "bought-1.0.dist-info" / "RECORD").write_text("bought.py,,\nbought-1.0.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    bought, mine = importlib.import_module("bought"), importlib.import_module("mine")
    with surroundings_kept():
        bought.count, mine.count = 1, 1
    assert (bought.count, mine.count) == (1, 0)
