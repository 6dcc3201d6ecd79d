"""Curves in the event file and in the table: each against what the training really did."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, Manual, convnet, digits, fit, loader, mlp
from lightning.pytorch.callbacks import Callback
from monitoring import Trained, some, watched
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from vitals.diagnosis.callback import Diagnosis
from vitals.measures.names import canonical
from vitals.monitors.learning_curves import LearningCurves, epoch_metrics, momentum_of


class Tells(Foreign):
    """Logs what ImageClassifier logs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss/train", loss.detach(), on_step=False, on_epoch=True, logger=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        accuracy = (logits.argmax(1) == batch[1]).float().mean()
        self.log("accuracy/val", accuracy, logger=False, batch_size=len(batch[1]))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_of_every_step_is_the_mean_of_its_batches(accumulate: int, tmp_path: Path) -> None:
    module = Foreign(mlp())
    curves = LearningCurves(times_per_run=None, subset_samples=0)
    _, events, diagnosis = watched(
        module, tmp_path, curves, train=some(6), accumulate_grad_batches=accumulate, log_every_n_steps=2
    )
    losses = [loss for _, loss in module.seen]
    expected = [
        sum(losses[place : place + accumulate]) / accumulate for place in range(0, len(losses), accumulate)
    ]
    history = diagnosis.recorder.history.series("loss/train_step")
    assert history.values == pytest.approx(expected, rel=1e-6)
    assert history.steps == list(range(1, 6 // accumulate + 1))
    found = events.scalars("loss/train_step")
    assert list(found) == [step for step in history.steps if step % 2 == 0]
    assert [found[step] for step in found] == pytest.approx([expected[step - 1] for step in found])


@pytest.mark.parametrize(("parts", "batches"), [(1, 1), (2, 1), (1, 3)])
def test_the_loss_that_a_step_by_hand_does_not_return_is_the_one_it_has_taken_the_gradient_of(
    parts: int, batches: int, tmp_path: Path
) -> None:
    class ByHand(Foreign):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            for x, y in zip(*(each.chunk(parts) for each in batch), strict=True):
                loss = F.cross_entropy(self.net(x), y) / parts
                self.manual_backward(loss)
                self.remember(y, loss)
            if (batch_idx + 1) % batches == 0:
                optimizer.step()
                optimizer.zero_grad()

    module = ByHand(mlp())
    curves = LearningCurves(times_per_run=None, subset_samples=0)
    _, _, diagnosis = watched(module, tmp_path, curves, train=some(6), log_every_n_steps=2)
    series = diagnosis.recorder.history.series("loss/train_step")
    losses, whole = [loss for _, loss in module.seen], parts * batches
    expected = [sum(losses[place : place + whole]) / batches for place in range(0, len(losses), whole)]
    assert series.values == pytest.approx(expected, rel=1e-6)


class EndsEpochs(Foreign):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 1 else None


@pytest.mark.parametrize(("kind", "share"), [(Foreign, 1.0), (EndsEpochs, 1 / 6)])
def test_an_epoch_that_a_hook_ends_has_a_share_of_its_batches(
    kind: Any, share: float, tmp_path: Path
) -> None:
    curves = LearningCurves(subset_samples=0)
    _, _, diagnosis = watched(kind(mlp()), tmp_path, curves, train=some(6), max_epochs=2)
    assert diagnosis.recorder.history.series("epoch_share").values == pytest.approx([share, share], rel=1e-3)


def test_rate_momentum_speed_and_epoch_are_those_of_the_next_step(tmp_path: Path) -> None:
    def make(module: Any) -> Any:
        groups = [
            {"params": module.net[0].parameters(), "name": "body"},
            {"params": module.net[5].parameters(), "lr": 0.5},
        ]
        optimizer = torch.optim.SGD(groups, 0.1, 0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    _, events, diagnosis = watched(Trained(convnet(), make), tmp_path, LearningCurves(1, subset_samples=0))
    assert list(events.scalars("lr/body").values()) == pytest.approx([0.05, 0.025, 0.0125, 0.00625])
    assert list(events.scalars("lr/1").values()) == pytest.approx([0.25, 0.125, 0.0625, 0.03125])
    assert list(events.scalars("momentum/body").values()) == pytest.approx([0.9] * 4)
    assert diagnosis.recorder.history.series("lr/body").epochs == [0.25, 0.5, 0.75, 1.0]
    assert min(events.scalars("run/images_per_second").values()) > 0
    assert min(events.scalars("run/memory_gib").values()) > 0.01


class ByHand(Callback):
    """Loss and accuracy of all training samples in evaluation mode, at the end of each epoch."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        images, labels = digits(64)
        pl_module.eval()
        with torch.no_grad():
            logits = pl_module.net(images)
        pl_module.train()
        hits = (logits.argmax(1) == labels).float().mean()
        self.found.append((float(F.cross_entropy(logits, labels)), float(hits)))


def test_the_gap_is_that_of_a_fixed_subset_in_evaluation_mode(tmp_path: Path) -> None:
    by_hand = ByHand()
    module = Tells(convnet())
    trainer, events, _ = watched(
        module,
        tmp_path,
        by_hand,
        LearningCurves(),
        train=some(4, shuffle=True),
        max_epochs=3,
        limit_val_batches=None,
    )
    assert trainer.global_step == 12
    losses, accuracies = events.scalars("loss/train_eval"), events.scalars("accuracy/train_eval")
    assert list(losses) == list(accuracies) == [1, 2, 3]
    assert list(losses.values()) == pytest.approx([loss for loss, _ in by_hand.found], rel=1e-4)
    assert list(accuracies.values()) == pytest.approx([hits for _, hits in by_hand.found])
    gap, validation = events.scalars("accuracy/gap"), events.scalars("accuracy/val")
    for epoch in (1, 2, 3):
        assert gap[epoch] == pytest.approx(accuracies[epoch] - validation[epoch], abs=1e-6)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8"), ("3", "12")]
    assert [float(row["accuracy/gap"]) for row in rows] == pytest.approx(list(gap.values()))


def test_a_loss_summed_over_the_batch_is_that_of_a_batch_of_training(tmp_path: Path) -> None:
    class Summed(Foreign):
        power = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return F.cross_entropy(self.net(x), y) * (len(y) / 16) ** self.power

    found = []
    for power in (0, 1, -1):
        module = Summed(mlp())
        module.power = power
        _, events, _ = watched(module, tmp_path / str(power), LearningCurves(), train=some(6))
        found.append(events.scalars("loss/train_eval")[1])
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-4)


def test_a_module_that_logs_no_accuracy_is_measured_on_a_validation_subset(tmp_path: Path) -> None:
    _, events, _ = watched(Foreign(mlp()), tmp_path, LearningCurves(), train=loader(), limit_val_batches=None)
    assert events.scalars("accuracy/val_eval")[1] == pytest.approx(events.scalars("accuracy/train_eval")[1])
    assert events.scalars("accuracy/gap")[1] == pytest.approx(0, abs=1e-6)  # the same digits


def test_subsets_come_so_many_times_a_run_and_at_its_end(tmp_path: Path) -> None:
    curves = LearningCurves(subset_samples=32, subsets_per_run=2)
    _, events, _ = watched(Tells(mlp()), tmp_path, curves, max_epochs=5, limit_val_batches=None)
    assert list(events.scalars("accuracy/train_eval")) == [3, 5]
    assert list(events.scalars("loss/train")) == [1, 2, 3, 4, 5]


def test_noise_of_the_loss_and_charts_are_written(tmp_path: Path) -> None:
    curves = LearningCurves(10, None, subset_samples=0)
    _, events, _ = watched(Foreign(mlp()), tmp_path, curves, train=some(32, 8))
    assert list(events.scalars("loss/noise")) == [30]
    assert 0 < events.scalars("loss/noise")[30] < 2
    assert "custom_scalars__config__" in events.tags("tensors")


def test_manual_steps_without_a_returned_loss_have_what_they_give_to_manual_backward(tmp_path: Path) -> None:
    curves = LearningCurves(1, subset_samples=0)
    _, events, _ = watched(Manual(mlp()), tmp_path, curves)
    assert curves.findings == []
    assert list(events.scalars("lr/0")) == [1, 2, 3, 4]
    assert events.tags(prefix="loss/") == ["loss/train_step"]


def test_a_batch_whose_parts_each_have_their_step_has_a_loss_for_each(tmp_path: Path) -> None:
    class InParts(Manual):
        """As a long sequence, whose gradients are cut off between its parts."""

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            for x, y in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
                optimizer.zero_grad()
                loss = F.cross_entropy(self.net(x), y)
                self.manual_backward(loss)
                optimizer.step()
                self.remember(y, loss)

    module = InParts(mlp())
    _, _, diagnosis = watched(module, tmp_path, LearningCurves(1, subset_samples=0))
    series = diagnosis.recorder.history.series("loss/train_step")
    assert series.steps == list(range(1, 1 + len(series.steps)))
    assert series.values == pytest.approx([loss for _, loss in module.seen], rel=1e-4)


def test_without_class_numbers_the_subsets_have_a_loss_alone(tmp_path: Path) -> None:
    class Regression(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            misses = self.net(batch[0])[:, 0] - batch[1]
            return (misses - misses.unsqueeze(1)).square().sum(1).mean()  # grows with the batch

    targets = torch.rand(64, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(digits(64)[0], targets), 16)
    curves = LearningCurves(1)
    _, events, diagnosis = watched(Regression(mlp()), tmp_path, curves, train=data, max_epochs=3)
    guess = diagnosis.recorder.history.last("facts/guess_loss")
    assert guess == pytest.approx(2 * 16 * float(targets.var()), rel=0.1)
    assert curves.findings == []
    assert "loss/train_eval" in events.tags()
    assert "accuracy/train_eval" not in events.tags()


class Smaller(Foreign):
    """Trains on images of half the size in the first epochs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step((F.avg_pool2d(x, 2) if self.current_epoch < 2 else x, y), batch_idx)


@pytest.mark.parametrize(("kind", "as_is"), [(Foreign, 1.0), (Smaller, 0.0)])
def test_samples_that_a_step_prepares_otherwise_than_validation_are_not_as_they_are_stored(
    kind: type[Foreign], as_is: float, tmp_path: Path
) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 10))
    _, _, diagnosis = watched(kind(net), tmp_path, LearningCurves(1), limit_val_batches=1)
    assert diagnosis.recorder.history.last("facts/train_as_is") == as_is


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_samples_seen_for_the_first_time_tell_labels_that_are_wrong_in_part(
    wrong: float, tmp_path: Path
) -> None:
    inputs, labels = digits(1797)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    inputs, labels = inputs[order], labels[order]
    drawn = torch.randint(10, labels.shape, generator=generator)
    given = torch.where(torch.rand(labels.shape, generator=generator) < wrong, drawn, labels)
    train = DataLoader(TensorDataset(inputs[:1200], given[:1200]), 20, shuffle=True)
    val = DataLoader(TensorDataset(inputs[1200:], labels[1200:]), 200)
    module, options = Foreign(mlp(), lr=0.02), {"train": train, "validation": val, "limit_val_batches": None}
    _, _, diagnosis = watched(module, tmp_path, LearningCurves(1), **options)
    history = diagnosis.recorder.history
    assert history.last("new/samples") == 300
    assert history.last("new/validation") > 0.6
    behind = history.last("new/validation") - history.last("new/accuracy")
    assert behind > 0.2 if wrong else behind < 0.1
    causes = [each.cause for each in diagnosis.findings if each.alarming]
    assert causes == (["labels-random"] if wrong else [])


class Transformed(Dataset[Any]):
    """As torchvision's data sets have it: `transform` is applied to each sample that is read."""

    def __init__(self, inputs: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.inputs, self.labels, self.transform = inputs, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.inputs[index]), self.labels[index]


def test_augmented_samples_are_not_held_against_plain_ones_of_validation(tmp_path: Path) -> None:
    inputs, labels = digits(1797)
    train = Transformed(inputs[:1200], labels[:1200], lambda image: image + 2 * torch.randn_like(image))
    val = Transformed(inputs[1200:], labels[1200:], lambda image: image)
    loaders = {"train": DataLoader(train, 20, shuffle=True), "validation": DataLoader(val, 200)}
    module, options = Foreign(mlp(), lr=0.02), {**loaders, "limit_val_batches": None}
    _, _, diagnosis = watched(module, tmp_path, LearningCurves(1), **options)
    assert diagnosis.recorder.history.last("facts/train_as_is") == 1
    assert not diagnosis.recorder.history.tags("new/")
    assert "labels-random" not in [each.cause for each in diagnosis.findings if each.alarming]


@pytest.mark.parametrize("kind", ["harder ones come last", "four in ten have no label"])
def test_labels_that_are_right_are_not_called_wrong(kind: str, tmp_path: Path) -> None:
    inputs, labels = digits(1797)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    inputs, given = inputs[order], labels[order]
    hardness = torch.rand(len(inputs), generator=generator)
    if last := kind == "harder ones come last":
        hardness[:1200] = hardness[:1200].sort().values
        inputs = inputs + 2 * hardness[:, None, None, None] * torch.randn(inputs.shape, generator=generator)
    else:
        given = torch.where((hardness < 0.4) & (torch.arange(1797) < 1200), -100, given)
    train = DataLoader(TensorDataset(inputs[:1200], given[:1200]), 16, shuffle=not last)
    val = DataLoader(TensorDataset(inputs[1200:], given[1200:]), 200)
    module, options = Foreign(mlp(), lr=0.05), {"train": train, "validation": val, "limit_val_batches": None}
    _, _, diagnosis = watched(module, tmp_path, LearningCurves(1), **options)
    assert diagnosis.recorder.history.last("accuracy/train_eval") > 0.3
    assert "labels-random" not in [each.cause for each in diagnosis.findings if each.alarming]


def test_a_long_list_of_samples_is_no_stream(tmp_path: Path) -> None:
    data = DataLoader(list(zip(*digits(1200), strict=True)), 60, shuffle=True)  # type: ignore[arg-type]
    _, _, diagnosis = watched(Foreign(mlp()), tmp_path, LearningCurves(1), train=data, limit_val_batches=1)
    assert diagnosis.recorder.history.last("facts/train_subset") == 1000
    assert diagnosis.recorder.history.last("facts/train_as_is") == 1


def test_without_subsets_the_other_curves_go_on(tmp_path: Path) -> None:
    class Backwards(Foreign):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            loss.backward()
            self.optimizers().step()
            return loss

    curves = LearningCurves(1)
    _, events, _ = watched(Backwards(mlp()), tmp_path, curves, max_epochs=3)
    assert [finding.message for finding in curves.findings] == [
        "LearningCurves: the training step calls backward itself, not manual_backward."
    ]
    assert list(events.scalars("loss/train_step")) == list(range(1, 13))


USUAL_NAMES = {
    "loss/val": "val_loss val/loss loss/val loss_val validation_loss valid_loss validation/loss Val/Loss",
    "accuracy/val": "val_acc val_accuracy valid_acc validation_accuracy acc/val val/accuracy accuracy/val",
    "loss/train": "train_loss train/loss loss/train training_loss train_loss_epoch train/loss_epoch",
    "accuracy/train": "train_acc train_accuracy train/acc_epoch",
}
OTHERS = "loss acc epoch lr val_f1 mae/val val_loss_l2 eval_loss value_loss loss/test test_loss loss/val_eval"


def test_people_call_loss_and_accuracy_by_many_names() -> None:
    for tag, names in USUAL_NAMES.items():
        assert {name: canonical(name) for name in names.split()} == dict.fromkeys(names.split(), tag)
    assert [canonical(name) for name in OTHERS.split()] == OTHERS.split()


def test_metrics_of_steps_are_none_of_an_epoch_and_none_is_taken_twice() -> None:
    logged = {"train_loss": 9.0, "train_loss_epoch": 2.0, "train_loss_step": 9.0, "grad": 1.0}
    logged |= {"val_loss": 3.0, "val_f1": 0.4, "val_f1_epoch": 0.4, "val_acc": 0.5}
    expected = {"loss/train": 2.0, "loss/val": 3.0, "val_f1": 0.4, "accuracy/val": 0.5}
    assert epoch_metrics(logged, {"train_loss", "train_loss_step", "grad"}) == expected
    both = {"loss/val": 1.0, "val_loss": 2.0, "val_acc": 87.5}  # percent is no share
    assert epoch_metrics(both) == both


class Logs(Foreign):
    """As most people write it: the last loss for the progress bar, and validation metrics of one's own."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("scale", float(batch_idx))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_mae", (logits.argmax(1) - batch[1]).abs().float().mean())
        self.log("hidden/val", 0.25, logger=False)


def test_a_module_that_logs_in_its_own_way_has_curves_and_a_table(tmp_path: Path) -> None:
    curves = LearningCurves(1, subset_samples=0)
    trainer, events, diagnosis = watched(
        Logs(mlp()), tmp_path, curves, max_epochs=2, limit_val_batches=2, num_sanity_val_steps=2
    )
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "hidden/val", "loss/train", "loss/val", "val_mae"]
    assert float(rows[1]["loss/val"]) == pytest.approx(float(trainer.callback_metrics["val_loss"]), rel=1e-6)
    assert list(events.scalars("loss/val")) == list(events.scalars("hidden/val")) == [1, 2]
    assert list(events.scalars("val_mae")) == [3, 7]  # Lightning's own, once
    assert diagnosis.recorder.history.series("val_mae").steps == [4, 8]
    assert diagnosis.recorder.history.tags("scale") == []


def test_an_optimizer_without_a_momentum_has_none_to_tell() -> None:
    assert momentum_of({"betas": (0.8, 0.99)}) == 0.8
    assert momentum_of({"momentum": 0.7}) == 0.7
    assert momentum_of({"lr": 0.1}) is None


class LogsAccuracy(Foreign):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(dim=1) == batch[1]).float().mean())


@pytest.mark.parametrize(
    ("rename", "causes"),
    [
        (lambda labels: labels, []),
        (lambda labels: (labels + 3) % 10, ["train-val-mismatch"]),
        (lambda labels: labels[torch.randperm(len(labels))], []),
    ],
)
def test_classes_with_other_numbers_in_validation_are_told(
    rename: Any, causes: list[str], tmp_path: Path
) -> None:
    diagnosis, (images, labels) = Diagnosis(report=False, summary=False), digits(512)
    validation = DataLoader(TensorDataset(images[256:], rename(labels[256:])), 64)
    curves = LearningCurves(1, subset_samples=256)
    fit(LogsAccuracy(mlp(), lr=0.2), tmp_path, curves, diagnosis, validation=validation, max_epochs=6)
    assert [finding.cause for finding in diagnosis.findings if finding.exact] == causes


@pytest.mark.parametrize("apart", [False, True])
def test_what_a_module_logs_of_validation_is_taken_once_it_is_what_would_be_measured(
    apart: bool, tmp_path: Path
) -> None:
    class Maybe(LogsAccuracy):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step([-batch[0] if apart else batch[0], batch[1]], batch_idx)

    data, curves = loader(), LearningCurves(1)
    options = {"train": data, "validation": data, "max_epochs": 4, "limit_val_batches": None}
    _, events, diagnosis = watched(Maybe(mlp(), lr=0.2), tmp_path, curves, **options)
    history = diagnosis.recorder.history
    measured = history.series("validation/accuracy")
    assert [round(epoch) for epoch in measured.epochs] == ([1, 2, 3, 4] if apart else [1, 4])
    shown = events.scalars("accuracy/val_eval")
    assert list(shown) == [1, 2, 3, 4]
    if not apart:
        trained = events.scalars("accuracy/train_eval")
        assert list(shown.values()) == pytest.approx(list(trained.values()), abs=1e-6)
