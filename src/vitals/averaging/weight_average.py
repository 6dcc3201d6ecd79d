"""An average of the weights beside those that train, of any LightningModule."""

import math
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from vitals.averaging.averaged_weights import AveragedWeights, Kind, is_count, require
from vitals.averaging.validation import NotPossible, on_all_processes, reestimate_statistics, validate_copy
from vitals.either_package import Callback, either
from vitals.errors import UserError
from vitals.files import local_folder, save_checkpoint
from vitals.length import is_last_epoch, is_timed, total_steps
from vitals.measures.finite import first_non_finite
from vitals.metric import averaged_name, bare_name
from vitals.monitors.learning_curves import LearningCurves
from vitals.probes.random_states import isolated_rng
from vitals.probes.surroundings import closures_kept
from vitals.writers.groups import Charts
from vitals.writers.registry import writers

WORSE = 0.002
"""By how much worse than the raw weights an average is worth a warning."""


class WeightAverage(Callback):
    """Averages the later weights, evaluates the average every epoch, and keeps it as `average.ckpt`.

    The average is a copy of the module from the beginning: the weights that train are never exchanged for
    others, and the training is the same to the bit without this callback. Once averaging has begun, at the
    end of every epoch with a validation, BatchNorm's statistics are estimated anew from training batches of
    its own, and the module's own validation is run on the average.

    | tag | x-axis | what |
    | --- | --- | --- |
    | `val_average/<name>` | epochs trained | what the validation logs as `<name>/val` or `val_<name>` |
    | `val_average/gain` | epochs trained | of the monitored metric, from the raw to the averaged weights |

    The same are in the trainer's `callback_metrics`; where there is a `LearningCurves`, it writes them to the
    loggers and to `metrics.csv`. `checkpoints/average.ckpt` in the trainer's log folder
    is an ordinary checkpoint with the averaged weights. At the end, `averaged_is_better` says whether they
    validate better than the raw weights ever did.

    Args:
        kind: `swa`, the equal mean; `ema`, an exponentially decaying one; `last_k`, that of the last few.
        start: after which averaging begins: a share of the run from 0 up to, but not including, 1, or a whole
            number of epochs.
        every: `epoch` averages the weights at the end of each epoch, a number after so many optimizer steps.
        epochs: length of the whole run, where the trainer's `max_epochs` is only a part of it.
        decay: of `ema`, see `AveragedWeights`.
        last: weights that `last_k` keeps.
        batch_norm_batches: training batches in each process from which BatchNorm's statistics are estimated.
        monitor: the metric that decides, as the validation logs it.
        mode: whether its largest or its smallest value is best.

    Raises:
        UserError: if a value is out of range, or, when the training begins, if the weights are sharded or
            `start` is a share of a run without an end.
    """

    def __init__(
        self,
        kind: Kind = "swa",
        start: float | int = 0.75,
        every: int | Literal["epoch"] = "epoch",
        epochs: int | None = None,
        decay: float = 0.999,
        last: int = 5,
        batch_norm_batches: int = 100,
        monitor: str = "accuracy/val",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        shares = "a share of the run from 0 up to, but not including, 1, or a whole number of epochs"
        require(0 <= start < (1 if isinstance(start, float) else math.inf), f"start={start}", shares)
        many = "a whole number of 1 or more"
        require(
            every == "epoch" or is_count(every), f"every={every}", f"epoch, or {many}, of optimizer steps"
        )
        require(epochs is None or is_count(epochs), f"epochs={epochs}", f"{many}, or null")
        require(is_count(batch_norm_batches), f"batch_norm_batches={batch_norm_batches}", many)
        require(mode in ("max", "min"), f"mode={mode}", "max or min")
        AveragedWeights(torch.nn.Identity(), kind, decay, last)  # looks at their values
        self.options = {"kind": kind, "decay": decay, "last": last}
        self.start, self.every, self.epochs = start, every, epochs
        self.batch_norm_batches, self.monitor, self.mode = batch_norm_batches, monitor, mode
        self.charts: Charts = {"weight average": _charts(monitor)}
        self._forget()

    def _forget(self) -> None:
        self.average: AveragedWeights | None = None
        self.best_raw: float | None = None
        """The best validation of the raw weights so far."""
        self.averaged: float | None = None
        """The latest validation of the averaged weights."""
        self.averaged_is_better = False
        self.path = Path()
        self.saved = False
        """Whether there is a file at `path`."""
        self.writable = True
        self.step = 0
        self.logs_itself = False
        self.validated = False
        self.said: set[str] = set()
        self.given_up = ""
        """Why no weights are averaged, or no more."""
        self.loaded: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin anew; raises `UserError` as the class says."""
        if stage != "fit":
            return
        self._forget()
        if isinstance(trainer.strategy, either(FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
            raise UserError("average needs whole weights on every device, and the strategy shards them.")
        endless = trainer.max_steps == -1 and (trainer.max_epochs in (None, -1) and self.epochs is None)
        endless = endless and not is_timed(trainer)
        if isinstance(self.start, float) and self.start and endless:
            raise UserError(
                f"average.start={self.start} is a share of a run without an end: give a number of epochs."
            )
        place = trainer.log_dir or trainer.default_root_dir
        self.path = Path(place) / "checkpoints" / "average.ckpt"
        kept = not trainer.fast_dev_run and local_folder(place) is not None  # type: ignore[attr-defined]
        self.writable = trainer.strategy.broadcast(kept)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before the optimizer's state is restored, for a module may refer to its optimizer and copy it, too.
        try:
            average = on_all_processes(trainer, lambda: AveragedWeights(pl_module, **self.options))  # type: ignore[arg-type]
        except NotPossible as problem:
            self._give_up(problem)
            return
        if self.loaded:
            average.load_averaging_state(self.loaded)
            self.loaded = None
        self.average = average

    def _give_up(self, problem: Exception) -> None:
        self.average, self.averaged, self.given_up = None, None, str(problem)
        rank_zero_warn(f"No weights are averaged: {problem}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        curves = [place for place, other in enumerate(callbacks) if isinstance(other, LearningCurves)]
        # One that comes before has written the epoch when the average is evaluated.
        self.logs_itself = not any(place > callbacks.index(self) for place in curves)
        if not curves and trainer.is_global_zero and not trainer.global_step:
            for writer in writers(trainer):
                writer.charts(self.charts)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.average is None or self.every == "epoch":
            return
        due = trainer.global_step // self.every > self.step // self.every
        self.step = trainer.global_step  # stays while gradients accumulate
        if due and self._begun(trainer, (batch_idx + 1) / trainer.num_training_batches):
            self._update(self.average, pl_module)

    def _update(self, average: AveragedWeights, module: L.LightningModule) -> None:
        if first_non_finite(module) is None:
            try:
                average.update_parameters(module)
            except UserError as problem:  # the same in all processes
                self._give_up(problem)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated = not trainer.sanity_checking
        self._score(trainer)  # there may be several in an epoch

    def _score(self, trainer: L.Trainer) -> Any:
        """The monitored metric of the raw weights in this epoch, as a tensor; None before a validation."""
        raw = trainer.callback_metrics.get(self.monitor) if self.validated else None
        if raw is not None and self._better(raw.item(), self.best_raw):
            self.best_raw = raw.item()
        return raw

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raw = self._score(trainer)
        average = self.average
        if average is None:
            return
        if self.every == "epoch" and self._begun(trainer, 1.0):
            self._update(average, pl_module)
        if self.average is not None and average.count:
            with isolated_rng(seed=0, together=True), closures_kept(pl_module):
                try:
                    self._finish(trainer, pl_module, average)
                except UserError as problem:
                    self._give_up(problem)
                    return
                if self.validated or is_last_epoch(trainer):
                    self._evaluate(trainer, pl_module, average, None if raw is None else raw.item())
            self._save(trainer, average)
        self.validated = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.averaged_is_better = self.averaged is not None and self._better(self.averaged, self.best_raw)
        rank_zero_info(self.verdict())

    def verdict(self) -> str:
        """One sentence on which weights are better on validation, or why that is not known."""
        if self.given_up:
            return f"No weights are averaged: {self.given_up}"
        if self.average is None or not self.average.count:
            return "No weights were averaged: the training ended before averaging began."
        if self.averaged is None or self.best_raw is None:
            kept = f"are in {self.path.name}" if self.writable else "were not kept"
            why = f"no validation logged {self.monitor} of both averaged and raw weights"
            return f"The averaged weights {kept}; whether they are better is not known: {why}."
        figures = f"{self.monitor} {self.averaged:.4g} averaged, {self.best_raw:.4g} raw at best"
        if self.averaged_is_better:
            return f"The averaged weights are better on validation: {figures}."
        advice = ""
        if self._gain(self.averaged, self.best_raw) < -WORSE:
            advice = " Averaging may have begun too early, while the weights still moved far."
        return f"The raw weights are as good or better on validation: {figures}.{advice}"

    def state_dict(self) -> dict[str, Any]:
        """The average so far in tensors and plain types, so that a resumed run goes on with it."""
        begun = self.average is not None and self.average.count
        return {
            "average": self.average.averaging_state() if self.average is not None and begun else None,
            "best_raw": self.best_raw,
            "averaged": self.averaged,
            "validated": self.validated,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict["average"]
        self.best_raw, self.averaged = state_dict["best_raw"], state_dict["averaged"]
        self.validated = state_dict.get("validated", False)

    def _begun(self, trainer: L.Trainer, share_of_epoch: float) -> bool:
        """Whether the run has passed `start`."""
        if self.average is not None and self.average.count:
            return True
        epochs = trainer.current_epoch + share_of_epoch
        if isinstance(self.start, int) or not self.start:
            return epochs > self.start
        length = self.epochs or trainer.max_epochs or -1
        shares = [epochs / length] if length > 0 else []
        if trainer.max_steps > 0 or is_timed(trainer):
            shares.append(trainer.global_step / total_steps(trainer))
        return max(shares) > self.start

    def _finish(self, trainer: L.Trainer, module: L.LightningModule, average: AveragedWeights) -> None:
        """Bring the copy up to date, with statistics of BatchNorm that belong to its weights."""
        owner: Any = average.finish(module)
        modes = {name: part.training for name, part in module.named_modules()}
        for name, part in owner.named_modules():
            part.training = modes.get(name, part.training)
        try:
            reestimate_statistics(trainer, owner, self.batch_norm_batches)
        except NotPossible as problem:
            average.finish(module)
            self._say(f"BatchNorm's statistics of the averaged weights are those of the raw ones: {problem}")

    def _evaluate(
        self, trainer: L.Trainer, module: L.LightningModule, average: AveragedWeights, raw: float | None
    ) -> None:
        """Validate the average, and the raw weights where the trainer has not just done so; log both."""
        owner: Any = average.module
        try:
            values = validate_copy(trainer, owner)
            if raw is None and self.monitor in values:
                raw = self._raw_score(trainer, module, average)
        except NotPossible as problem:
            self._say(f"The averaged weights are not evaluated: {problem}")
            return
        metrics = {averaged_name(name): value for name, value in values.items()}
        if self.monitor in values:
            self.averaged = values[self.monitor]
            if raw is not None:
                metrics["val_average/gain"] = self._gain(self.averaged, raw)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        if self.logs_itself and trainer.is_global_zero:
            for writer in writers(trainer):
                writer.scalars(metrics, trainer.global_step, trainer.current_epoch + 1)

    def _raw_score(
        self, trainer: L.Trainer, module: L.LightningModule, average: AveragedWeights
    ) -> float | None:
        """The monitored metric of the raw weights, which the trainer has left without a validation."""
        copy: Any = AveragedWeights(average.module)
        copy.update_parameters(module)
        score = validate_copy(trainer, copy.finish(module)).get(self.monitor)
        if score is not None and self._better(score, self.best_raw):
            self.best_raw = score
        return score

    def _save(self, trainer: L.Trainer, average: AveragedWeights) -> None:
        if not self.writable:
            self._say(f"The averaged weights are not kept: nothing may be written to {self.path.parent}.")
            return
        averaged, raw = average.module.state_dict(), trainer.lightning_module.state_dict()
        weights = {name: averaged.get(name, value) for name, value in raw.items()}
        if not self.saved and trainer.is_global_zero:  # later a folder that is gone was taken away
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self.saved = True
        save_checkpoint(trainer, self.path, weights_only=True, state_dict=weights)

    def _gain(self, averaged: float, raw: float) -> float:
        """How much better the averaged weights are; negative where they are worse."""
        return averaged - raw if self.mode == "max" else raw - averaged

    def _better(self, score: float, than: float | None) -> bool:
        if score != score:
            return False
        return than is None or self._gain(score, than) > 0

    def _say(self, sentence: str) -> None:
        if sentence not in self.said:
            rank_zero_info(sentence)
            self.said.add(sentence)


def _charts(monitor: str) -> dict[str, list[Any]]:
    """Raw and averaged weights on one chart; the gain, a fraction of either, on its own."""
    charts = {
        bare_name(name): ["Multiline", [f"{name}$", f"{averaged_name(name)}$"]]
        for name in (monitor, "loss/val")
    }
    return charts | {"gain": ["Multiline", ["val_average/gain$"]]}
