"""What all monitors have in common: when they measure, where they write, and that they never do harm."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial, wraps
from typing import Any, ClassVar

import lightning as L
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from vitals.causes import StationKey
from vitals.either_package import Callback
from vitals.errors import UserError, reason_of
from vitals.files import cannot_write
from vitals.findings import Finding
from vitals.length import is_timed, total_steps
from vitals.recorder import recorder_of
from vitals.writers.groups import Charts, in_groups
from vitals.writers.registry import writers


@dataclass(frozen=True)
class Interval:
    """Every so many optimizer steps, so many times a run of known length, or so many times an epoch of known
    length; the shortest counts. The first and the last step of a run of known length are always measured.
    `UserError` if nothing is given, or a number is below 1."""

    every_n_steps: int | None = None
    times_per_run: int | None = None
    times_per_epoch: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            raise UserError("every_n_steps, times_per_run or times_per_epoch must be a number.")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r} must be a whole number of 1 or more.")

    def period(self, total_steps: float, steps_per_epoch: float) -> int:
        """Optimizer steps between two measurements; lengths that are not known are infinite."""
        lengths = [
            (self.every_n_steps, 1.0),
            (1, total_steps / self.times_per_run if self.times_per_run else math.inf),
            (1, steps_per_epoch / self.times_per_epoch if self.times_per_epoch else math.inf),
        ]
        candidates = [count * length for count, length in lengths if count and math.isfinite(length)]
        if not candidates:  # only lengths that are not known: as often as the default
            return 50
        return max(1, math.floor(min(candidates)))


TRIES = 3
"""Batches with which a monitor may fail before it falls silent."""


class Monitor(Callback):
    """Measures after some optimizer steps, in the first process alone, and never ends a training.

    What it measures goes to the loggers of the trainer, in the groups of `vitals.writers.groups`, and to its
    `Recorder`, where it has one, under the tags that the tables of the monitors list. A monitor that fails,
    in any of its hooks, says why in a finding `skipped` and is silent from then on. Subclasses measure in the
    hooks of Lightning, between `self.active` and `self.due(step)`.

    Args:
        every_n_steps, times_per_run, times_per_epoch: see `Interval`.
    """

    charts: ClassVar[Charts] = {}
    """Curves that stand on one chart, one for each quantity; by the names that loggers show."""
    station: ClassVar[StationKey] = "loss"
    """Station of the course to which it belongs."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes, plain values and tensors, that a checkpoint holds, so that a resumed run goes
    on as if it had never stopped."""

    broken = False
    """Whether one of its hooks has failed."""

    def __init_subclass__(cls, **further: Any) -> None:
        super().__init_subclass__(**further)
        for name, hook in list(vars(cls).items()):
            if name.startswith("on_") and callable(hook):
                setattr(cls, name, _harmless(hook))

    def __init__(
        self,
        every_n_steps: int | None = None,
        times_per_run: int | None = None,
        times_per_epoch: int | None = None,
    ) -> None:
        self.interval = Interval(every_n_steps, times_per_run, times_per_epoch)
        self.period = 1
        self.total_steps = math.inf
        self.paced: Callable[[], None] | None = None
        """Brings `period` and `total_steps` up to date; None unless the training ends by time."""
        self.active = False
        self.failures: list[Exception] = []
        """What `retried` has met since it last succeeded."""
        self.findings: list[Finding] = []
        self.hooks: list[Any] = []
        """Handles of the hooks that it registered; they are removed at the end of the training at the
        latest."""
        self.loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure_length(trainer, pl_module)
        self.paced = partial(self._measure_length, trainer, pl_module) if is_timed(trainer) else None
        self.active, self.failures, self.broken = trainer.is_global_zero, [], False
        self.guarded(self.start, trainer, pl_module)
        loaded, self.loaded = self.loaded, None
        # At step 0 the state is not of a resumed run: a tuner of rates or batch sizes has restored it.
        if loaded is not None and trainer.global_step:
            self.active = self.active and loaded["active"]
            self.findings = [Finding(**finding) for finding in loaded["findings"]]
            for name in self.kept:
                if loaded[name] is not None:  # else it was never known, or could not be saved
                    value = move_data_to_device(loaded[name], trainer.strategy.root_device)
                    setattr(self, name, value)

    def state_dict(self) -> dict[str, Any]:
        """The findings and the attributes in `kept`. Those that hold objects of the user's own classes, such
        as a batch, are left out, for they could not be saved or read everywhere; a resumed run makes them
        anew."""
        kept = {name: getattr(self, name, None) for name in self.kept}  # only the first process has all
        kept = {name: value if is_plain(value) else None for name, value in kept.items()}
        return {"active": self.active, "findings": [asdict(each) for each in self.findings], **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.keys() >= {"active", "findings", *self.kept}:  # else of an older version
            self.loaded = state_dict

    def _measure_length(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.total_steps = total_steps(trainer)
        epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        if not module.automatic_optimization:  # then each optimizer takes a step with every batch
            most = trainer.max_steps if trainer.max_steps > 0 else math.inf
            self.total_steps = min(self.total_steps * len(trainer.optimizers), most)
            epoch *= len(trainer.optimizers)
        self.period = self.interval.period(self.total_steps, epoch)

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Prepare to measure, as subclasses override it; `UserError` if this training cannot be measured."""

    def due(self, step: int, last: int | None = None) -> bool:
        """Whether to measure now, after `step` optimizer steps. Where one batch brought several steps, `last`
        is their number before that batch, and one of them being due is enough."""
        if self.paced is not None:
            self.paced()
        last = step - 1 if last is None else last
        passed = last < 1 <= step or last < self.total_steps <= step
        return self.active and (passed or step // self.period > last // self.period)

    def guarded(self, measure: Callable[..., Any], *arguments: Any) -> Any:
        """Call `measure(*arguments)` if this monitor is active. If that fails, the monitor ends, and the
        training goes on."""
        if not self.active:
            return None
        try:
            return measure(*arguments)
        except Exception as error:
            self._fall_silent(error)
        return None

    def _fall_silent(self, error: Exception) -> None:
        """End this monitor and say why in a finding; but a disk that cannot be written ends the training."""
        if cannot_write(error):
            raise error
        self.active = False
        self.skip(error)

    def retried(self, measure: Callable[..., Any], *arguments: Any) -> bool:
        """Call `measure(*arguments)`, and return whether it succeeded. The monitor ends only after it has
        failed for `TRIES` batches in succession: what fails with one batch, such as a step that returns None,
        may work with the next."""
        if not self.active:
            return False
        try:
            measure(*arguments)
        except Exception as error:
            if cannot_write(error):
                raise
            self.failures.append(error)
            if len(self.failures) >= TRIES:
                self.active = False
                self._give_up()
            return False
        self.failures = []
        return True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.unhook()
        self._give_up()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.unhook()  # after an error Lightning calls no teardown

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.unhook()

    def unhook(self) -> None:
        """Remove the hooks that it registered."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def _give_up(self) -> None:
        if self.failures:
            self.skip(self.failures[-1])
            self.failures = []

    def skip(self, error: Exception) -> None:
        """Add a finding that says why something is not measured."""
        name = type(self).__name__
        message = f"{name}: {reason_of(error)}"
        self.findings.append(Finding("skipped", "note", message, where=name, station=self.station))

    def say(self, trainer: L.Trainer, finding: Finding) -> None:
        """Add a finding, dated with the present step and epoch."""
        step, epoch = trainer.global_step, round(epoch_of(trainer), 4)
        self.findings.append(replace(finding, step=step, epoch=epoch))

    def record(
        self, trainer: L.Trainer, scalars: Mapping[str, float], further: Mapping[str, Any] | None = None
    ) -> None:
        """Write numbers to loggers and history, at the present step; `further` to the history alone."""
        shown = {in_groups(tag): value for tag, value in scalars.items()}
        for writer in writers(trainer):
            writer.scalars(shown, trainer.global_step)
        self.remember(trainer, {**scalars, **(further or {})})

    @staticmethod
    def remember(trainer: L.Trainer, values: Mapping[str, Any], epoch: float | None = None) -> None:
        """Write what was measured to the history alone, at the present step, and at the present epoch unless
        another is given; nothing where the trainer has no recorder."""
        if recorder := recorder_of(trainer):
            epoch = epoch_of(trainer) if epoch is None else float(epoch)
            recorder.history.add(trainer.global_step, epoch, values)


def is_plain(value: Any) -> bool:
    """Whether a checkpoint that holds `value` can be read without running code."""
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(is_plain, value))
    if isinstance(value, dict):
        return type(value) is dict and all(map(is_plain, value)) and all(map(is_plain, value.values()))
    return type(value) in (Tensor, int, float, str, bool, type(None))


def _harmless(hook: Callable[..., None]) -> Callable[..., None]:
    """Wrap `hook` so that its monitor falls silent if it fails; but a disk that cannot be written
    ends the training."""

    @wraps(hook)
    def harmless(self: Monitor, *arguments: Any, **named: Any) -> None:
        if self.broken and hook.__name__ != "on_train_start":
            return
        try:
            hook(self, *arguments, **named)
        except Exception as error:
            self._fall_silent(error)
            self.broken = True

    return harmless


def scales_gradients(trainer: L.Trainer) -> bool:
    """Whether a gradient scaler multiplies the loss, as in half precision, and leaves steps out."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def epoch_of(trainer: L.Trainer) -> float:
    """Epochs trained, with their fraction."""
    batches: float = trainer.num_training_batches
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    share = done / batches if batches and math.isfinite(batches) else 0.0
    return trainer.current_epoch + min(share, 1.0)


def epochs_done(trainer: L.Trainer) -> float:
    """At the end of an epoch: the epochs trained, a whole number unless the training ends amid one."""
    epochs, last = epoch_of(trainer), trainer.current_epoch
    return round(epochs, 4) if last < epochs < last + 1 else last + 1


class Logged:
    """Tells what a module has logged since the last `mark` from what the trainer still has from before.

    Mark at the start of a training batch, when no metric is being reduced: the trainer then keeps the same
    tensor under a name until something is logged anew. Every process must call both, for they may have to
    reduce together.
    """

    def __init__(self) -> None:
        self.before: dict[str, Any] | None = None
        """None before the first `mark`."""

    def mark(self, trainer: L.Trainer) -> None:
        """What there is now is from before."""
        self.before = dict(trainer.callback_metrics)

    def since(self, trainer: L.Trainer) -> dict[str, Any]:
        """What was logged since then, by its names."""
        metrics = trainer.callback_metrics
        return {name: value for name, value in metrics.items() if value is not (self.before or {}).get(name)}
