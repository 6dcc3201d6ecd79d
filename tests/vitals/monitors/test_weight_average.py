"""The average of the weights beside anybody's training: what it is, and that nothing notices."""

from __future__ import annotations

import copy
import itertools
import logging
import random
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, Manual, NoisyDigits, convnet, digits, fit, loader, mlp
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core import rank_zero
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, IterableDataset

from vitals.averaging.weight_average import WeightAverage
from vitals.errors import UserError
from vitals.monitors.learning_curves import LearningCurves


class Validated(Foreign):
    """Logs the validation as most people do."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_accuracy", (logits.argmax(1) == y).float().mean())


class Trajectory(L.Callback):
    """Copies of the weights after every optimizer step, and the validation's figures after every epoch."""

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []
        self.epochs: list[list[Tensor]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        if trainer.global_step > len(self.steps):
            self.steps.append(weights(pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(weights(pl_module))
        known = trainer.callback_metrics.items()
        self.metrics.append({name: value.item() for name, value in known if not name.startswith("val_av")})


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def mean(trajectory: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(values).mean(0) for values in zip(*trajectory, strict=True)]


def averager(**options: Any) -> WeightAverage:
    return WeightAverage(**{"monitor": "val_accuracy", "start": 0.0, **options})


def saved(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / "average.ckpt", weights_only=True)
    return content


def saved_weights(folder: Path) -> list[Tensor]:
    """The parameters in `average.ckpt`, without the buffers."""
    return [
        value
        for name, value in saved(folder)["state_dict"].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]


def close(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


WAYS: dict[str, dict[str, Any]] = {
    "swa": {},
    "swa, every 3 steps": {"every": 3},
    "ema": {"kind": "ema", "every": 1},
    "last_k": {"kind": "last_k", "last": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_training_is_the_same_to_the_bit_with_and_without(way: str, tmp_path: Path) -> None:
    """Weights, buffers, optimizer state, random states, batches, losses and validation figures."""
    seen = []
    for callbacks in ([], [averager(**WAYS[way])]):
        module, trajectory = Validated(convnet()), Trajectory()
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        train = DataLoader(NoisyDigits(), 32, shuffle=True)
        trainer = fit(module, tmp_path, trajectory, *callbacks, train=train, max_epochs=3)
        states = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
        seen.append(
            [module.seen, module.state_dict(), trajectory.metrics, states, trainer.optimizers[0].state_dict()]
        )
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0)


class Hooked(Validated):
    """Gathers what its layers give, in a hook that is a function around the module."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.gathered: list[Tensor] = []

        def gather(layer: Any, arguments: Any, outputs: Tensor) -> None:
            self.gathered.append(outputs.square().mean())

        self.net[1].register_forward_hook(gather)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx) + 0.01 * torch.stack(self.gathered).mean()
        self.gathered.clear()
        return loss

    def on_validation_end(self) -> None:
        self.gathered.clear()


def test_hooks_of_the_average_gather_nothing_in_the_training(tmp_path: Path) -> None:
    seen = []
    for callbacks in ([], [averager()]):
        module = Hooked()
        fit(module, tmp_path, *callbacks, max_epochs=3)
        seen.append(weights(module))
    assert all(map(torch.equal, *seen))


@pytest.mark.parametrize("every", ["epoch", 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_swa_is_the_mean_of_the_later_weights_the_last_included(
    every: Any, accumulate: int, tmp_path: Path
) -> None:
    trajectory = Trajectory()
    average = averager(start=0.5, every=every)
    options = {"accumulate_grad_batches": accumulate, "max_epochs": 4}
    fit(Validated(convnet()), tmp_path, trajectory, average, **options)
    if every == "epoch":
        expected = trajectory.epochs[2:]
    else:
        per_epoch = len(trajectory.steps) // 4
        later = range(2 * per_epoch + 1, 4 * per_epoch + 1)
        expected = [trajectory.steps[step - 1] for step in later if step % every == 0]
    assert close(saved_weights(tmp_path), mean(expected))


def test_ema_follows_its_formula_with_a_warm_up_of_the_decay(tmp_path: Path) -> None:
    trajectory = Trajectory()
    fit(Validated(mlp()), tmp_path, trajectory, averager(kind="ema", every=1, decay=0.6), max_epochs=2)
    first, *others = trajectory.steps
    expected = first
    for count, step in enumerate(others, start=1):
        decay = min(0.6, (1 + count) / (10 + count))
        expected = [decay * e + (1 - decay) * s for e, s in zip(expected, step, strict=True)]
    assert close(saved_weights(tmp_path), expected)


def test_last_k_is_the_mean_of_the_last_checkpoints(tmp_path: Path) -> None:
    trajectory = Trajectory()
    fit(Validated(mlp()), tmp_path, trajectory, averager(kind="last_k", last=3), max_epochs=5)
    assert close(saved_weights(tmp_path), mean(trajectory.epochs[2:]))


@pytest.mark.parametrize("curves", [[], [LearningCurves(subset_samples=0, table=False)]], ids=["", "curves"])
def test_both_are_evaluated_every_epoch_once_averaging_has_begun_and_never_before(
    curves: list[L.Callback], tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(Validated(convnet()), tmp_path, *curves, averager(start=2), logger=logger, max_epochs=5)
    events = EventAccumulator(str(tmp_path)).Reload()
    for tag in ("val_average/loss", "val_average/accuracy", "val_average/gain"):
        assert [event.step for event in events.Scalars(tag)] == [3, 4, 5], tag
    assert len(events.Scalars("val_loss")) == 5


def test_the_figures_are_those_of_the_averaged_weights(tmp_path: Path) -> None:
    average = averager(start=1)
    trainer = fit(Validated(convnet()), tmp_path, average, max_epochs=3)
    noted = {name: trainer.callback_metrics[f"val_average/{name}"].item() for name in ("loss", "accuracy")}
    gain = trainer.callback_metrics["val_average/gain"] + trainer.callback_metrics["val_accuracy"]
    assert gain.item() == pytest.approx(noted["accuracy"])
    module = Validated(convnet())
    module.load_state_dict(saved(tmp_path)["state_dict"])
    judge = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [found] = judge.validate(module, loader(shuffle=False), verbose=False)
    assert {name: found[f"val_{name}"] for name in noted} == pytest.approx(noted)


@pytest.mark.parametrize("batches", [3, 100])
def test_batch_norm_has_the_statistics_of_the_averaged_weights(batches: int, tmp_path: Path) -> None:
    train = loader(shuffle=False)
    average = averager(batch_norm_batches=batches)
    fit(Validated(mlp(norm=True)), tmp_path, average, train=train, max_epochs=3)
    net = mlp(norm=True)
    module = Validated(net)
    module.load_state_dict(saved(tmp_path)["state_dict"])
    seen = [net[:2](x) for x, _ in train][:batches]
    assert torch.allclose(net[2].running_mean, torch.stack([x.mean(0) for x in seen]).mean(0), atol=1e-5)
    assert torch.allclose(net[2].running_var, torch.stack([x.var(0) for x in seen]).mean(0), atol=1e-5)
    assert net[2].num_batches_tracked == len(seen)


class FrozenNorm(Validated):
    def on_train_epoch_start(self) -> None:
        self.net[2].eval()


def test_a_frozen_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    net = mlp(norm=True)
    net[2].running_mean.fill_(0.25)
    fit(FrozenNorm(net), tmp_path, averager(), max_epochs=2)
    assert torch.equal(saved(tmp_path)["state_dict"]["net.2.running_mean"], torch.full((32,), 0.25))


class Stop(L.Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 2


ENDS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "early stop": ([Stop()], {"max_epochs": 10}),
    "max_steps in the middle of an epoch": ([], {"max_epochs": 10, "max_steps": 20}),
    "max_steps before the first validation": ([], {"max_epochs": 10, "max_steps": 3}),
    "max_time": ([Timer({"milliseconds": 1})], {"max_epochs": 10}),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_ends_early_keeps_the_average_up_to_its_last_weights(end: str, tmp_path: Path) -> None:
    callbacks, options = ENDS[end]
    trajectory, average = Trajectory(), averager()
    trainer = fit(Validated(convnet()), tmp_path, trajectory, *callbacks, average, **options)
    assert trainer.current_epoch < 10
    assert close(saved_weights(tmp_path), mean(trajectory.epochs))
    assert {"val_average/accuracy", "val_average/gain"} <= trainer.callback_metrics.keys()
    better = average.averaged_is_better
    assert average.verdict().startswith(f"The {'averaged' if better else 'raw'} weights are")


def test_a_run_that_ends_before_averaging_begins_says_so_and_keeps_its_weights(tmp_path: Path) -> None:
    trajectory, average, module = Trajectory(), averager(start=0.9), Validated(convnet())
    fit(module, tmp_path, trajectory, Stop(), average, max_epochs=10)
    assert close(weights(module), trajectory.steps[-1])
    assert not (tmp_path / "checkpoints" / "average.ckpt").exists()
    assert "before averaging began" in average.verdict()
    assert not average.averaged_is_better


class BreaksInValidation(Validated):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.current_epoch == 2:
            raise RuntimeError("out of ink")
        super().validation_step(batch, batch_idx)


def test_an_exception_in_validation_exchanges_nothing(tmp_path: Path) -> None:
    trajectory, module = Trajectory(), BreaksInValidation(convnet())
    with pytest.raises(RuntimeError, match="out of ink"):
        fit(module, tmp_path, trajectory, averager(), max_epochs=4)
    assert close(weights(module), trajectory.steps[-1])
    assert close(saved_weights(tmp_path), mean(trajectory.epochs))


class OnlyOnce(Validated):
    """Its validation runs in a training alone."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not isinstance(self.trainer, L.Trainer):
            raise RuntimeError("out of ink")
        super().validation_step(batch, batch_idx)


class Live(IterableDataset):
    """Comes from a source that goes on by itself, of which there is no copy."""

    def __init__(self) -> None:
        self.source = (row for _ in itertools.count() for row in zip(*digits(), strict=True))

    def __iter__(self) -> Any:
        return self.source


@pytest.mark.parametrize(
    ("module", "train", "reason"),
    [
        (OnlyOnce(mlp()), None, "not evaluated: your code fails with RuntimeError at"),
        (Validated(convnet()), DataLoader(Live(), 32), "BatchNorm's statistics"),
    ],
    ids=["validation", "stream"],
)
def test_what_cannot_be_done_on_a_copy_is_said_and_ends_nothing(
    module: Foreign, train: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trajectory, log = Trajectory(), rank_zero.log  # of either package, whichever was imported last
    log.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, log.name):
        fit(module, tmp_path, trajectory, averager(), train=train, max_epochs=2, limit_train_batches=4)
    log.removeHandler(caplog.handler)
    assert reason in caplog.text
    assert close(saved_weights(tmp_path), mean(trajectory.epochs))


def test_what_hooks_count_in_the_function_around_them_is_of_the_training_alone(tmp_path: Path) -> None:
    seen = {"batches": 0}

    class Counts(Validated):
        def on_validation_batch_start(self, *_: Any) -> None:
            seen["batches"] += 1

    fit(Counts(mlp()), tmp_path, averager(), max_epochs=2, num_sanity_val_steps=0)
    assert seen == {"batches": 2 * len(loader())}


class Changes(Validated):
    """Its weights are others behind its first epoch, or it has a part more that has none."""

    def __init__(self, pruned: bool) -> None:
        super().__init__(mlp())
        self.pruned = pruned

    def on_train_epoch_end(self) -> None:
        if self.pruned and self.trainer.current_epoch:
            prune.l1_unstructured(self.net[-1], "weight", 0.5)
        self.another = nn.Identity()


@pytest.mark.parametrize("every", ["epoch", 3])
@pytest.mark.parametrize("pruned", [True, False])
def test_of_weights_that_are_exchanged_there_is_no_average_and_the_training_goes_on(
    pruned: bool, every: Any, tmp_path: Path
) -> None:
    trajectory, average, module = Trajectory(), averager(every=every), Changes(pruned)
    fit(module, tmp_path, trajectory, average, max_epochs=3)
    assert close(weights(module), trajectory.steps[-1])
    assert ("has got other weights" in average.verdict()) is pruned


class FailsInOneProcess(Validated):
    """Its validation fails on a copy of it, in the second process alone."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not isinstance(self.trainer, L.Trainer) and torch.distributed.get_rank() == 1:
            raise RuntimeError("out of ink")
        super().validation_step(batch, batch_idx)


def test_two_processes_have_one_average_and_its_figures_are_those_of_all_samples(tmp_path: Path) -> None:
    options = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 2}
    trainer = fit(Validated(mlp(norm=True)), tmp_path, averager(), train=loader(shuffle=False), **options)
    net = mlp(norm=True)
    module = Validated(net)
    module.load_state_dict(saved(tmp_path)["state_dict"])
    samples = DataLoader(loader().dataset, 32)
    x, y = (torch.cat(parts) for parts in zip(*samples, strict=True))
    batches = [net[:2](x[rank::2][start : start + 32]) for rank in (0, 1) for start in range(0, 128, 32)]
    assert torch.allclose(net[2].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-5)
    accuracy = (net.eval()(x).argmax(1) == y).float().mean()
    assert trainer.callback_metrics["val_average/accuracy"] == pytest.approx(accuracy.item())


def test_a_failure_in_one_process_leaves_no_other_waiting(tmp_path: Path) -> None:
    options = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 2}
    trainer = fit(FailsInOneProcess(mlp()), tmp_path, averager(), **options)
    assert trainer.state.finished
    assert "val_average/accuracy" not in trainer.callback_metrics
    assert saved(tmp_path)["epoch"] == 1


def test_manual_optimization_is_averaged_too(tmp_path: Path) -> None:
    trajectory, module = Trajectory(), Manual(convnet())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*averaged weights.*")
        fit(module, tmp_path, trajectory, averager(monitor="val_loss", mode="min"), max_epochs=2)
    assert close(saved_weights(tmp_path), mean(trajectory.epochs))


def test_weights_in_16_bits_are_averaged_in_32(tmp_path: Path) -> None:
    """A mean that lags behind by a hundredth of a step could not move in 16 bits at all."""
    from vitals.averaging.averaged_weights import AveragedWeights

    layer = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    torch.nn.init.ones_(layer.weight)
    average = AveragedWeights(layer, "swa")
    for _ in range(1000):
        average.update_parameters(layer)
    torch.nn.init.constant_(layer.weight, 2.0)
    for _ in range(1000):
        average.update_parameters(layer)
    assert average.finish(layer).weight.item() == pytest.approx(1.5, rel=0.01)


class Interrupt(L.Callback):
    """Saves everything after so many epochs, and stops."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch + 1 == self.epochs:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "middle.ckpt")
            trainer.should_stop = True


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_resume_in_the_middle_is_exact(way: str, epochs: int, tmp_path: Path) -> None:
    """Before averaging has begun, and after."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train, options = loader(shuffle=False), {"max_epochs": 5}
    settings = {**WAYS[way], "start": 0.4}
    net = mlp(norm=True)
    first = Validated(copy.deepcopy(net))
    trainer = fit(first, straight, averager(**settings), train=train, **options)
    fit(Validated(net), broken, averager(**settings), Interrupt(epochs), train=train, **options)
    second = Validated(mlp(norm=True))
    middle = broken / "middle.ckpt"
    resumed = fit(second, broken, averager(**settings), train=train, ckpt_path=middle, **options)
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    kept = [saved(folder)["state_dict"] for folder in (straight, broken)]
    torch.testing.assert_close(kept[1], kept[0], rtol=0, atol=0)
    assert resumed.callback_metrics["val_average/gain"] == trainer.callback_metrics["val_average/gain"]


def test_resumed_without_the_callback_the_raw_weights_train_on(tmp_path: Path) -> None:
    train, trajectory = loader(shuffle=False), Trajectory()
    fit(Validated(mlp()), tmp_path, averager(), Interrupt(2), train=train, max_epochs=4)
    fit(Validated(mlp()), tmp_path, trajectory, train=train, max_epochs=4)
    module, middle = Validated(mlp()), tmp_path / "middle.ckpt"
    fit(module, tmp_path, train=train, ckpt_path=middle, max_epochs=4)
    torch.testing.assert_close(weights(module), trajectory.epochs[-1], rtol=0, atol=0)


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "average.kind=sma does not exist: did you mean swa": ({"kind": "sma"}, {}),
    "average.start=1.5 is not allowed": ({"start": 1.5}, {}),
    "average.start=-1 is not allowed": ({"start": -1}, {}),
    "average.every=batch is not allowed": ({"every": "batch"}, {}),
    "average.epochs=0 is not allowed": ({"epochs": 0}, {}),
    "average.batch_norm_batches=0 is not allowed": ({"batch_norm_batches": 0}, {}),
    "average.mode=most is not allowed": ({"mode": "most"}, {}),
    "average.decay=1 is not allowed": ({"kind": "ema", "decay": 1.0}, {}),
    "average.last=0 is not allowed": ({"kind": "last_k", "last": 0}, {}),
    "average.start=0.5 is a share of a run without an end": ({"start": 0.5}, {"max_epochs": -1}),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_value_is_refused_in_one_sentence(sentence: str, tmp_path: Path) -> None:
    options, of_trainer = WRONG[sentence]
    with pytest.raises(UserError) as error:
        fit(Validated(mlp()), tmp_path, averager(**options), **of_trainer)
    assert str(error.value).startswith(sentence)
