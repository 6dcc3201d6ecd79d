"""Loss, accuracy, their gap and noise, learning rate, momentum and speed over the run."""

import math
import statistics
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch import Tensor

from vitals.errors import UserError
from vitals.history import MetricsTable
from vitals.length import total_epochs, total_steps
from vitals.measures.fresh_draws import is_fresh
from vitals.measures.held_parameters import param_groups
from vitals.measures.names import canonical, in_pairs
from vitals.measures.norms import to_host
from vitals.measures.other_preparations import Preparation, other_preparations, roughness
from vitals.monitors.monitor import Logged, Monitor, epoch_of, epochs_done, scales_gradients
from vitals.probes.fixed_subset import NEIGHBOURS, OF_CLASSES, FixedSubsets
from vitals.probes.loaders import is_shuffled
from vitals.probes.new_samples import NewSamples
from vitals.probes.rows import first_samples, samples_in
from vitals.recorder import Recorder, recorder_of, shared_twin
from vitals.writers.groups import Charts, in_groups, joined
from vitals.writers.registry import writers

WINDOW = 15
"""Steps over which the loss is smoothed."""


def loss_noise(losses: Sequence[float]) -> float | None:
    """Standard deviation of the losses of successive steps around their moving average, as a share of that
    (cs231n, "Neural Networks Part 3", wiggle of the loss and batch size). None for fewer than 2 × `WINDOW` of
    them, or where a loss is not finite or the average not positive."""
    if len(losses) < 2 * WINDOW or not all(map(math.isfinite, losses)):
        return None
    values, half = np.array(losses), WINDOW // 2
    means = np.convolve(values, np.ones(WINDOW), "valid") / WINDOW
    mean = float(means.mean())
    # A value takes part in its own average, which hides a share of 1/WINDOW of its variance.
    variance = float(np.square(values[half:-half] - means).mean()) / (1 - 1 / WINDOW)
    return math.sqrt(variance) / mean if mean > 0 else None


class Speed:
    """Counts samples and the seconds between the ends of successive batches.

    Nothing waits for the device: over many steps the host cannot run ahead of it.
    """

    def __init__(self) -> None:
        self.samples, self.seconds = 0, 0.0
        self.last: float | None = None

    def after_batch(self, samples: int) -> None:
        """A batch of `samples`, over all processes, has been trained on."""
        now = time.perf_counter()
        if self.last is not None:
            self.samples += samples
            self.seconds += now - self.last
        self.last = now

    def pause(self) -> None:
        """What follows, up to the end of the next batch, is not training."""
        self.last = None

    def figures(self, device: torch.device) -> dict[str, float]:
        """`images_per_second` since the last call, and `memory_gib`, the peak so far: of the GPU, or of the
        process."""
        found = {"images_per_second": self.samples / self.seconds} if self.seconds else {}
        self.samples, self.seconds = 0, 0.0
        memory = _peak_memory(device)
        return found | ({"memory_gib": memory / 2**30} if memory else {})


def _peak_memory(device: torch.device) -> int:
    """Bytes; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def momentum_of(group: Mapping[str, Any]) -> float | None:
    """The momentum of a parameter group; None where its optimizer has none."""
    if "momentum" in group and not group.get("use_fallback"):  # timm's Muon has both in every group
        return float(group["momentum"])
    return group["betas"][0] if "betas" in group else None


def epoch_metrics(logged: Mapping[str, float], of_steps: Collection[str] = ()) -> dict[str, float]:
    """What a module has logged for a whole epoch, by tag, in the order of its names, of all that it has
    logged by its own names, those `of_steps` among them."""
    metrics: dict[str, float] = {}
    for name in sorted(logged):
        plain, end = name.removesuffix("_epoch"), name.removesuffix("_step")
        if name in of_steps or (end != name and end in logged):
            continue
        if plain != name and plain in logged and plain not in of_steps:
            continue  # Lightning gives the figure under both names
        tag = canonical(name)
        if tag != name and (tag in logged or (tag.startswith("accuracy") and logged[name] > 1)):
            tag = name  # the module has that one, too; or it counts in percent
        metrics[tag] = logged[name]
    return metrics


def _joined(losses: Sequence[Tensor]) -> Tensor:
    """Losses of one number each, of any shape, as (n,)."""
    return torch.stack([loss.reshape(()) for loss in losses])


def _on_host(trainer: L.Trainer, logged: Mapping[str, Tensor]) -> dict[str, float]:
    device = trainer.strategy.root_device
    values = to_host([value.detach().reshape(1).to(device) for value in logged.values()])
    return {name: value for name, [value] in zip(logged, values, strict=True)}


def _roughness(training: Tensor, validation: Tensor) -> dict[str, float]:
    """How rough the images of both sets are, and by how many standard errors they differ."""
    if not (training.ndim == 4 == validation.ndim and validation.is_floating_point()):
        return {}
    parts = [roughness(each[:ROUGH].float()) for each in (training, validation)]
    means, errors = [float(each.mean()) for each in parts], [float(each.var() / len(each)) for each in parts]
    score = (means[1] - means[0]) / math.sqrt(max(sum(errors), 1e-12))
    return {"roughness": means[0], "roughness_validation": means[1], "roughness_score": score}


GAP, ABOVE = 0.15, 0.02
"""Accuracy of training above validation, and below it, from which the validation subset is looked at, too."""
MIXED_UP = 0.75
"""Training samples that are given the number of a class beside their own, over those that are right, from
which it is looked at, too: 1 where half of the labels are off by one, 0.5 where nothing is but little is
learned."""
BEHIND = 0.05
"""Accuracy of training above validation from which other preparations of validation are tried: a finding of
them needs as much."""
AS_LOGGED = 0.01
"""Share by which the loss and the accuracy that a module logs of validation may differ from those of the
subset, to be taken for them until the last look."""
GLANCE = 250
"""Validation samples on which another preparation is tried first; one that all would bear out is hardly ever
below there."""
ROUGH = 500
"""Samples of each set whose roughness is taken."""
SHORT = 2000
"""Steps of a training up to which new samples are looked at; tried on trainings of 60 to 250."""
NOISE_STEPS = 200
"""Steps back over which the noise of the loss is measured."""


class LearningCurves(Monitor):
    """Writes what the module logs for each epoch, and the state of its optimizer.

    | tag | x-axis | what |
    | --- | --- | --- |
    | `loss/train`, `loss/val`, `accuracy/train`, `accuracy/val` | epochs trained | means over the epoch, also
    where the module calls them `val_loss`, `train_acc` and the like, see `canonical` |
    | any other metric of an epoch | epochs trained | under the name that the module gives it; the history has
    it under `<quantity>/train` and `<quantity>/val`, too, where its name says both |
    | `start/train`, `start/validation` | 0 | accuracies of weights that were trained before, as it begins |
    | `new/accuracy`, `new/samples`, `new/validation`, `new/validation_samples` | 1 | accuracy on the last
    training batches of the first epoch, each before it was trained on, and on validation samples at the same
    steps, were their classes as common; both in evaluation mode |
    | `loss/train_eval`, `accuracy/train_eval` | epochs | of a fixed training subset without augmentation, in
    evaluation mode |
    | `loss/val_eval`, `accuracy/val_eval` | epochs | of a fixed validation subset; only where the module does
    not log `accuracy/val` by just this name; once what it logs by another is the same, that is taken, but at
    the last look |
    | `accuracy/gap` | epochs | accuracy of the training subset less that of the validation |
    | `loss/train_step` | optimizer steps | loss of one batch |
    | `loss_noise` | optimizer steps | deviation of the loss from its moving average, as a share of it |
    | `lr/<group>`, `momentum/<group>` | optimizer steps | of each parameter group, in the next step |
    | `images_per_second`, `memory_gib` | optimizer steps | speed without validation; peak so far |
    | `epoch` | optimizer steps | epochs trained, with their fraction |
    | `epoch_share` | epochs | share of its batches that an epoch had before it ended; in the history alone |

    `metrics.csv` in the trainer's `default_root_dir` has one row an epoch, of the epoch metrics. On resuming,
    the rows of epochs that are trained anew are replaced. The history has the loss of every step. What the
    module itself sends to the loggers is not sent there again under the same name.

    Args:
        every_n_steps, times_per_run, times_per_epoch: of the step metrics, see `Interval`; where
            `every_n_steps` is None, it is the trainer's `log_every_n_steps`.
        subset_samples: of the fixed subsets; 0 leaves them out.
        subsets_per_run: how often the subsets are evaluated, at the ends of epochs; the last always is.
        table: whether to write `metrics.csv`.
    """

    charts: ClassVar[Charts] = {
        "loss": {
            "training and validation": ["Multiline", ["loss/(train|val)(_eval)?$"]],
            "each step": ["Multiline", ["loss/train_step$"]],
            "noise, as a share of the loss": ["Multiline", ["loss/noise$"]],
        },
        "accuracy": {
            "training and validation": ["Multiline", ["accuracy/(train|val)(_eval)?$"]],
            "gap between them": ["Multiline", ["accuracy/gap$"]],
        },
        "learning rate and momentum": {
            "learning rate": ["Multiline", ["lr/"]],
            "momentum": ["Multiline", ["momentum/"]],
        },
        "speed": {
            "samples per second": ["Multiline", ["run/images_per_second$"]],
            "memory in GiB": ["Multiline", ["run/memory_gib$"]],
        },
    }

    kept = ("losses", "of_step", "recent", "of_epoch", "of_steps", "evaluates", "agrees")

    def __init__(
        self,
        every_n_steps: int | None = None,
        times_per_run: int | None = 20,
        times_per_epoch: int | None = None,
        subset_samples: int = 1000,
        subsets_per_run: int = 4,
        table: bool = True,
    ) -> None:
        super().__init__(50 if every_n_steps is None else every_n_steps, times_per_run, times_per_epoch)
        self.follows_trainer = every_n_steps is None
        self.subset_samples, self.subsets_per_run = subset_samples, subsets_per_run
        self.writes_table = table
        self.table: MetricsTable | None = None
        self.subsets: FixedSubsets | None = None
        self.evaluates = False
        self.rows: int | None = None
        """Of the table, in the checkpoint from which the training goes on."""
        self.speed = Speed()
        self.by_hand, self.given = False, list[Tensor]()
        """Whether what is given to `manual_backward` is the loss of the batch; since the last batch."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.logged = Logged()  # which all processes must ask
        self.validated: tuple[int, float] | None = None
        """Step and epoch of a validation after which no training has followed yet."""
        if self.follows_trainer:
            every = max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]
            self.interval = replace(self.interval, every_n_steps=every)
        super().on_train_start(trainer, pl_module)
        if self.rows is not None and self.active and self.table:
            del self.table.rows[self.rows :]
        self.rows = None

    def state_dict(self) -> dict[str, Any]:
        """What belongs to the epoch so far, and how many rows the table has."""
        return {**super().state_dict(), "rows": len(self.table.rows) if self.active and self.table else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.rows = state_dict.get("rows")

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.seen, self.subsets, self.batch = trainer.global_step, None, None
        self.preparations: dict[str, Preparation] | None = None
        self.sees_new = not trainer.global_step
        # A step that optimizes by hand need not return its loss; a scaler has multiplied what it is given.
        self.by_hand, self.given = not module.automatic_optimization and not scales_gradients(trainer), []
        self.of_steps: list[str] | None = None
        self.evaluates = self.subset_samples > 0
        self.agrees = False
        """Whether what the module logs of validation is what was measured on the subset."""
        self.losses: list[Tensor] = []
        self.of_step: list[Tensor] = []
        self.recent: list[float] = []
        self.of_epoch: list[float] = []
        self.batches_of_epoch = 0
        file = Path(trainer.default_root_dir) / "metrics.csv"  # which may be somebody else's
        self.table = MetricsTable(file, trainer.global_step) if self.writes_table else None
        if not trainer.global_step:
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            charts = joined(getattr(callback, "charts", {}) for callback in callbacks)
            for writer in writers(trainer):
                writer.charts(charts)

    def due(self, step: int, last: int | None = None) -> bool:
        if self.paced is not None:
            self.paced()
        # Not the first step: in the trainer's own rhythm, as other loggers have it.
        return self.active and step // self.period > (step - 1 if last is None else last) // self.period

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.active and self.batch is None:
            self.batch = first_samples(batch)  # the step may write to its own
            if self.evaluates and not trainer.global_step:
                try:
                    self._before(trainer, pl_module)
                except Exception as error:  # the other curves go on
                    self.evaluates = False
                    self.skip(error)
        if self.active and self.sees_new and self.evaluates:
            try:
                self._see_new(trainer, pl_module, batch, batch_idx)
            except Exception:  # a batch may be of another make than the first
                self.sees_new = False
        if batch_idx == 0 or self.validated is not None or self.logged.before is None:
            if self.validated is not None and batch_idx:  # the training goes on: it was amid an epoch
                logged, sent = self.logged.since(trainer), set(trainer.logged_metrics)
                self.guarded(self._after_validation, trainer, *self.validated, logged, sent)
            self.validated = None
            self.logged.mark(trainer)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if self.by_hand and loss.numel() == 1:
            self.given.append(loss.detach().float().reshape(()))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.guarded(self._after_batch, trainer, outputs, batch, batch_idx)
        if self.active and self.of_steps is None:  # what is there now cannot be a metric of an epoch
            self.of_steps = sorted(trainer.callback_metrics)

    def _after_batch(self, trainer: L.Trainer, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches_of_epoch = batch_idx + 1
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):  # Lightning has divided it by the number of batches in a step
            share, value = trainer.accumulate_grad_batches, loss.detach().float()
            by_lightning = share != 1 and trainer.lightning_module.automatic_optimization
            self.of_step.append(value * share if by_lightning else value)
        step = trainer.global_step
        if self.given and not isinstance(loss, Tensor):
            # What one optimizer steps down is the sum of the parts; of several, losses are no curve.
            steps, parts = step - self.seen, len(self.given)
            in_turn = steps > 1 and parts % steps == 0  # parts of a sequence, each with its step
            self.by_hand = steps < 2 or in_turn if len(trainer.optimizers) == 1 else steps > 0 and parts == 1
            if self.by_hand and in_turn:
                self.losses += torch.stack(self.given).reshape(steps, -1).sum(1)
            elif self.by_hand:
                self.of_step.append(torch.stack(self.given).sum())
        self.given = []
        self.speed.after_batch(samples_in(batch) * trainer.world_size)
        if step == self.seen:
            return  # only accumulated
        last, self.seen = self.seen, step
        if self.of_step:
            self.losses.append(self.of_step[0] if len(self.of_step) == 1 else _joined(self.of_step).mean())
            self.of_step = []
        if self.due(step, last):
            self._log_steps(trainer, step)

    def _log_steps(self, trainer: L.Trainer, step: int) -> None:
        scalars: dict[str, float] = {}
        if self._bring_losses(trainer, step):
            scalars["loss/train_step"] = self.recent[-1]
            if (noise := loss_noise(self.recent)) is not None:
                scalars["loss_noise"] = noise
        for number, group in enumerate(param_groups(*trainer.optimizers)):
            name = group.get("name", str(number))
            scalars[f"lr/{name}"] = float(group["lr"])
            if (momentum := momentum_of(group)) is not None:
                scalars[f"momentum/{name}"] = momentum
        scalars |= self.speed.figures(trainer.strategy.root_device)
        epoch = epoch_of(trainer)
        of_module = {} if trainer.lightning_module.automatic_optimization else self._logged_losses(trainer)
        for writer in writers(trainer):
            writer.scalars({"epoch": epoch, **{in_groups(tag): scalars[tag] for tag in scalars}}, step)
        scalars.pop("loss/train_step", None)
        self.remember(trainer, of_module | scalars)

    def _logged_losses(self, trainer: L.Trainer) -> dict[str, float]:
        """What a step that optimizes by itself, with several losses perhaps, calls a loss."""
        logged = trainer.callback_metrics
        names = [name for name in sorted(self.of_steps or ()) if "loss" in name.lower() and name in logged]
        return _on_host(trainer, {name: logged[name] for name in names})

    def _bring_losses(self, trainer: L.Trainer, step: int) -> bool:
        """Take the losses of the steps since the last time to the host and into the history."""
        if not self.losses:
            return False
        [losses] = to_host([_joined(self.losses)])
        self.losses = []
        self.recent = [*self.recent, *losses][-NOISE_STEPS:]
        self.of_epoch += losses
        if recorder := recorder_of(trainer):
            recorder.history.add_steps(step, epoch_of(trainer), {"loss/train_step": losses})
        return True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.speed.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.speed.pause()
        if not trainer.sanity_checking:
            self.validated = (trainer.global_step, round(epoch_of(trainer), 4))

    def _after_validation(
        self, trainer: L.Trainer, step: int, epoch: float, logged: dict[str, Tensor], sent: set[str]
    ) -> None:
        metrics = self._numbers(trainer, logged)
        if unsent := {f"{tag}_step": value for tag, value in metrics.items() if tag not in sent}:
            for writer in writers(trainer):
                writer.scalars(unsent, step)
        if recorder := recorder_of(trainer):
            recorder.history.add(step, epoch, in_pairs(metrics) | metrics)
        if metrics and self.table:
            self.table.add({"epoch": epoch, "step": step, **metrics})

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Both may ask all processes.
        logged, sent = self.logged.since(trainer), set(trainer.logged_metrics)
        self.validated = None
        if trainer.is_global_zero:
            self._after_epoch(trainer, pl_module, logged, sent)

    def _numbers(self, trainer: L.Trainer, logged: dict[str, Tensor]) -> dict[str, float]:
        return epoch_metrics(_on_host(trainer, logged), self.of_steps or ())

    def _after_epoch(
        self, trainer: L.Trainer, pl_module: L.LightningModule, logged: dict[str, Tensor], sent: set[str]
    ) -> None:
        self.guarded(self._bring_losses, trainer, trainer.global_step)
        self.sees_new = False
        epoch = epochs_done(trainer)
        metrics = self._numbers(trainer, logged)
        pairs = in_pairs(metrics)
        if self.evaluates and self.active and self._subset_due(trainer, epoch):
            try:
                known = "accuracy/val" in trainer.callback_metrics
                metrics |= self._evaluate_subsets(trainer, pl_module, metrics, known)
            except Exception as error:  # the other curves go on
                self.evaluates = False
                self.skip(error)
        if unsent := {tag: value for tag, value in metrics.items() if tag not in sent}:
            for writer in writers(trainer):
                writer.scalars(unsent, trainer.global_step, math.ceil(epoch))
        mean = {"loss/train": statistics.fmean(self.of_epoch)} if self.of_epoch else {}
        batches, done = trainer.num_training_batches, self.batches_of_epoch
        share = {"epoch_share": done / batches} if batches and math.isfinite(batches) else {}
        self.remember(trainer, mean | pairs | metrics | share, epoch)
        self.of_epoch = []
        if metrics and self.table:
            self.table.add({"epoch": epoch, "step": trainer.global_step, **metrics})

    def _subset_due(self, trainer: L.Trainer, epoch: float) -> bool:
        epochs = total_epochs(trainer)
        every = math.ceil(epochs / self.subsets_per_run) if math.isfinite(epochs) else 1
        return epoch % every == 0 or self._ends(trainer, epoch)

    @staticmethod
    def _ends(trainer: L.Trainer, epoch: float) -> bool:
        return round(epoch - total_epochs(trainer), 3) >= 0 or trainer.should_stop

    def _evaluate_subsets(
        self, trainer: L.Trainer, module: L.LightningModule, metrics: dict[str, float], logged: bool
    ) -> dict[str, float]:
        subsets = self._fixed_subsets(trainer, module)
        found = subsets.evaluate(*subsets.training)
        right = subsets.right
        of_classes = {name: found.pop(name, 0.0) for name in OF_CLASSES}
        named = {f"{name}/train_eval": value for name, value in found.items()}
        known, reached = metrics.get("accuracy/val"), found.get("accuracy", 0.0)
        apart = known is not None and not -ABOVE < reached - known < GAP
        neighbours = {name: of_classes[name] for name in NEIGHBOURS}
        apart = apart or sum(neighbours.values()) > MIXED_UP * reached
        own = {f"{name}/val_eval": metrics.get(f"{name}/val", math.nan) for name in ("loss", "accuracy")}
        ends = self._ends(trainer, epochs_done(trainer))
        if self.agrees and not apart and not ends and all(map(math.isfinite, own.values())):
            named |= own
        elif not logged or apart or not subsets.step.class_numbers:
            named |= self._validated(trainer, subsets, logged, reached)
            if subsets.step.class_numbers and not logged:
                self.agrees = all(
                    math.isclose(named.get(tag, math.nan), value, rel_tol=AS_LOGGED)
                    for tag, value in own.items()
                )
        by_batch = {} if right is None else subsets.by_batch_statistics(right)
        measured = {f"modes/{name}": value for name, value in by_batch.items()}
        if subsets.step.class_numbers:
            measured |= {f"training/{name}": value for name, value in neighbours.items()}
        if ends:
            for look in (subsets.before_narrow_layer, subsets.of_guides):
                with suppress(Exception):  # of networks that neither is made for; the other curves go on
                    measured |= look()
            with suppress(Exception):
                measured |= {f"validation/{name}": value for name, value in subsets.exchanged().items()}
        if measured:
            self.remember(trainer, measured, trainer.current_epoch + 1)
        validation = named.get("accuracy/val_eval", known)
        if validation is not None and "accuracy/train_eval" in named:
            named["accuracy/gap"] = named["accuracy/train_eval"] - validation
        return named

    def _fixed_subsets(self, trainer: L.Trainer, module: L.LightningModule) -> FixedSubsets:
        if self.subsets is None:
            twin = shared_twin(trainer, module)
            self.subsets = FixedSubsets(twin, self.batch, self.subset_samples)
            self.batch = None
            if recorder := recorder_of(trainer):
                recorder.add_facts(trainer, self.subsets.facts())
        return self.subsets

    def _before(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """What weights that were trained before know of both sets as the training begins."""
        recorder = recorder_of(trainer)
        if recorder is None or is_fresh(module):
            return
        subsets = self._fixed_subsets(trainer, module)
        validation = subsets.validation
        if not subsets.step.class_numbers or validation is None:
            return
        known = subsets.evaluate(*subsets.training)["accuracy"]
        other = subsets.evaluate(*validation).get("reweighed", math.nan)
        recorder.add_facts(trainer, {"val_subset": float(len(validation[0]))})
        recorder.history.add(0, 0.0, {"start/train": known, "start/validation": other})

    def _see_new(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, place: int) -> None:
        if total_steps(trainer) > SHORT:
            self.sees_new = False
            return
        if not place:
            steps, batches = trainer.max_steps, trainer.num_training_batches
            if not is_shuffled(trainer.train_dataloader):
                batches = math.inf  # harder ones may come last, as in a curriculum
            elif steps > 0:
                batches = min(batches, steps * trainer.accumulate_grad_batches)
            self.new = NewSamples(batches, math.ceil(self.subset_samples / max(samples_in(batch), 1)))
        if not self.new.due(place):
            return
        found = self.new.look(self._fixed_subsets(trainer, module), batch)
        if found:
            self.remember(trainer, {f"new/{name}": value for name, value in found.items()})

    def _validated(
        self, trainer: L.Trainer, subsets: FixedSubsets, logged: bool, reached: float
    ) -> dict[str, float]:
        """What the validation subset says beside what the module logs itself; `reached` is the accuracy on
        training images."""
        if subsets.validation is None:
            return {}
        try:
            found = subsets.evaluate(*subsets.validation)
        except (KeyError, RuntimeError, TypeError, UserError):
            if subsets.step.network is not None:
                raise
            return {}  # whole batches of validation need not be what the training step takes
        guess = subsets.guess(subsets.validation[1]) if not subsets.step.class_numbers else {}
        of_classes = {name: found.pop(name) for name in OF_CLASSES if name in found}
        if recorder := recorder_of(trainer):
            if subsets.step.network is not None:
                recorder.add_facts(trainer, {"val_subset": float(len(subsets.validation[0]))})
            if of_classes:
                measured = {f"validation/{name}": value for name, value in (of_classes | found).items()}
                if reached - found["accuracy"] > BEHIND:
                    measured |= self._prepared_otherwise(trainer, recorder, subsets, found["accuracy"])
                self.remember(trainer, measured, trainer.current_epoch + 1)
            elif not subsets.step.class_numbers:
                measured = {f"validation/{name}": value for name, value in (guess | found).items()}
                self.remember(trainer, measured, trainer.current_epoch + 1)
        if logged or subsets.step.network is None:
            return {}
        return {f"{name}/val_eval": value for name, value in found.items()}

    def _prepared_otherwise(
        self, trainer: L.Trainer, recorder: Recorder, subsets: FixedSubsets, accuracy: float
    ) -> dict[str, float]:
        """Accuracies on the validation subset as it would be if it had been prepared in other ways."""
        assert subsets.validation is not None
        inputs, targets = subsets.validation
        if self.preparations is None:
            sets = subsets.training[0], inputs
            self.preparations = other_preparations(*sets, subsets.entering_training())
            if not recorder.history.tags("facts/roughness"):
                recorder.add_facts(trainer, _roughness(*sets))
        measured = {}
        for name, prepare in self.preparations.items():
            changed = subsets.evaluate(prepare(inputs[:GLANCE]), targets[:GLANCE])
            if changed["accuracy"] > accuracy:  # else all of them would not say more
                changed = subsets.evaluate(prepare(inputs), targets)
            measured[f"validation/changed/{name}"] = changed["accuracy"]
        return measured

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.subsets = self.preparations = None
