"""Activations, gradients and weights: their statistics by layer, and their distributions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from vitals.errors import UserError
from vitals.measures.gradient_noise import gradient_noise, squared_norm
from vitals.measures.held_parameters import shown_name
from vitals.measures.histogram import Histogram, histogram
from vitals.measures.layer_probe import Probe, probe
from vitals.measures.layer_statistics import layer_statistics
from vitals.measures.norms import to_host
from vitals.monitors.monitor import Monitor, is_plain
from vitals.probes.random_states import isolated_rng
from vitals.probes.rows import first_samples, in_halves, samples_in, together
from vitals.probes.twin import Twin
from vitals.probes.untouched import ChangesParameters
from vitals.recorder import shared_twin
from vitals.writers.groups import Charts
from vitals.writers.registry import writers

FEW = 8
"""Samples on which it is tried whether the step can do with a part of a batch."""
TRAINED = 4
"""Samples that are trained on for each that is looked at, at least."""
TAGS = (
    *("activation_mean", "activation_std", "activation_variance", "gradient_variance"),
    *("dead_units", "saturated_units"),
)
"""Of the fields of `LayerStatistics`, in their order."""
WHOLE = "gradient noise: your training_step takes whole batches alone."


class Histograms(Monitor):
    """Looks into the network with a pass of its own over a fixed batch, and logs what it sees.

    | tag | what |
    | --- | --- |
    | `activation_mean/<layer>`, `activation_std/<layer>` | over all values |
    | `activation_variance/<layer>` | mean over units of the variance over samples: the layer's signal |
    | `gradient_variance/<layer>` | of the loss's gradient with respect to the layer's values |
    | `dead_units/<layer>` | share of channels that are 0 for every sample |
    | `saturated_units/<layer>` | share of values at the limits of tanh or sigmoid |
    | `gradient_noise/{signal,variance,scale}` | McCandlish et al. 2018, from two halves of the batch |
    | `activations/<layer>`, `gradients/<parameter>`, `weights/<parameter>` | histograms |

    A layer is a linear or convolutional one with the activation behind it, in the order of execution. The
    batch is the first samples of the run, so that distributions compare over time; the
    pass is that of the training step, with the present weights, in training mode, on copies of the buffers
    and with the same random numbers every time. Compiled graphs stay as they are.

    Histograms come with every `histograms_every`-th measurement, the first and the last; gradient noise, and
    the histograms of the history, about ten times a run. Between two measurements four times as many samples
    are trained on as one looks at, unless `every_n_steps` asks for more of them.

    Args:
        every_n_steps, times_per_run, times_per_epoch: see `Interval`.
        histograms_every: measurements of the statistics for one of the histograms.
        samples: of the fixed batch, 2 or more.
    """

    station = "updates"

    charts: ClassVar[Charts] = {
        "activations": {
            "variance over samples, the signal": ["Multiline", ["activations/variance/"]],
            "share of dead units": ["Multiline", ["activations/dead_units/"]],
            "share of saturated units": ["Multiline", ["activations/saturated_units/"]],
            "mean": ["Multiline", ["activations/mean/"]],
            "standard deviation": ["Multiline", ["activations/std/"]],
        },
        "gradients": {
            "variance": ["Multiline", ["gradients/variance/"]],
            "noise scale, in samples": ["Multiline", ["gradients/noise/scale$"]],
            "signal and noise": ["Multiline", ["gradients/noise/(signal|variance)$"]],
        },
    }

    def __init__(
        self,
        every_n_steps: int | None = 500,
        times_per_run: int | None = 20,
        times_per_epoch: int | None = None,
        histograms_every: int = 5,
        samples: int = 32,
    ) -> None:
        super().__init__(every_n_steps, times_per_run, times_per_epoch)
        if histograms_every < 1:
            raise UserError(f"histograms_every={histograms_every} must be a whole number of 1 or more.")
        if samples < 2:
            raise UserError(f"samples={samples} must be a whole number of 2 or more.")
        self.histograms_every, self.samples = histograms_every, samples
        self.batch: Any = None
        self.whole = False
        """Whether `batch` is one as the training step gets it, since that cannot do with a part of it."""
        self.filling = True
        """Whether `batch` may have fewer samples than are wanted."""
        self.before: int | None = None
        """Samples of `batch` without those of the batch that is being trained on, until it has been."""
        self.twin: Twin | None = None
        self.rehearsed = False
        self.measured = 0
        self.fewest = 1
        """Steps between two measurements, at least, for what one costs."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.twin, self.measured = None, trainer.global_step
        self.rehearsed, self.filling, self.fewest = False, True, 1
        self.batch = move_data_to_device(self.batch, trainer.strategy.root_device)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.filling:
            self.filling = self.batch is None or (not self.whole and samples_in(self.batch) < self.samples)
        if self.filling:
            self.before = 0 if self.batch is None else samples_in(self.batch)
            self.guarded(self._keep, batch)
        if self.active and not self.rehearsed and not self.retried(self._rehearse, trainer, pl_module, batch):
            self.batch, self.whole, self.filling = None, False, True  # the next one may do

    def _keep(self, batch: Any) -> None:
        """Take as many samples as are wanted, from several batches where these are small."""
        if self.batch is None:
            self.batch = first_samples(batch, self.samples)
        else:
            missing = self.samples - samples_in(self.batch)
            try:
                self.batch = together(self.batch, first_samples(batch, missing))
            except (RuntimeError, ValueError):  # as with sequences of different lengths
                self.samples = samples_in(self.batch)

    def _rehearse(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> None:
        self.twin = shared_twin(trainer, module)
        self.twin.refresh()
        if self.whole:
            self.twin.rehearse(self.batch)
        else:
            self.twin.few(batch, min(FEW, self.samples))
        if not self.whole and not self.twin.cuts:
            self.batch, self.whole = first_samples(batch), True
            self.skip(UserError(WHOLE))
        self.rehearsed, often = True, self.period
        looked_at = 1.0 if self.whole else self.samples / max(samples_in(batch), 1)
        self.fewest = math.ceil(TRAINED * looked_at / trainer.accumulate_grad_batches)
        self._measure_length(trainer, module)
        cost = math.ceil(self.fewest / TRAINED)
        if self.period > often and cost > 1 and not trainer.global_step:
            said = f"a look costs as much as {cost} of your steps and is taken after {self.period}"
            self.skip(UserError(f"{said}, where {often} had been asked for."))

    def _measure_length(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super()._measure_length(trainer, module)
        self.period = max(self.period, min(self.fewest, self.interval.every_n_steps or self.fewest))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.before, step = None, trainer.global_step
        if self.rehearsed and self.due(step, self.measured):
            first, self.measured = self.measured == 0, step
            self.guarded(self._measure, trainer, first)

    def _measure(self, trainer: L.Trainer, first: bool) -> None:
        assert self.twin is not None
        step = trainer.global_step
        fully = first or step >= self.total_steps or (step // self.period) % self.histograms_every == 0
        parameters = {shown_name(name): parameter for name, parameter in self.twin.module.named_parameters()}
        whole = self._pass(self.batch, parameters if fully else {})
        names = _unique([shown_name(layer.name) for layer in whole.layers])
        rows = [
            layer_statistics(layer, gradient)
            for layer, gradient in zip(whole.layers, whole.layer_gradients, strict=True)
        ]
        if not fully:
            self.record(trainer, _scalars(names, to_host(rows)))
            return
        values = {
            f"activations/{name}": layer.values for name, layer in zip(names, whole.layers, strict=True)
        }
        values |= {f"gradients/{name}": gradient for name, gradient in whole.gradients.items()}
        values |= {f"weights/{name}": p.detach() for name, p in parameters.items() if p.numel()}
        values = {tag: each for tag, each in values.items() if not each.is_complex()}  # which have no order
        pictures = [histogram(each) for each in values.values()]
        tags = list(values)
        sizes = [squared_norm(whole.gradients.values())] if whole.gradients else []
        del whole, values  # before the next gradients are made, for the memory they take
        if sizes and self._rarely(step):
            sizes += self._norms_of_halves(parameters)
        parts = iter(to_host([*rows, *sizes, *pictures]))
        scalars = _scalars(names, [next(parts) for _ in rows])
        scalars |= self._noise([next(parts)[0] for _ in sizes])
        drawn = self._histograms(trainer, dict(zip(tags, parts, strict=True)))
        self.record(trainer, scalars, drawn if self._rarely(step) else {})

    def _norms_of_halves(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        """Squared norms of the gradients of two halves of the batch, one after the other."""
        if self.whole or samples_in(self.batch) < 4:  # BatchNorm needs two samples
            return []
        try:
            halves = in_halves(self.batch)
            return [squared_norm(self._pass(half, parameters).gradients.values()) for half in halves]
        except ChangesParameters:
            raise
        except UserError:  # as with sequences that are padded to the length of the longest
            self.whole = True
            self.skip(UserError(WHOLE))
            return []

    def _noise(self, norms: list[float]) -> dict[str, float]:
        if len(norms) != 3:
            return {}
        whole, first, second = norms
        found = gradient_noise(first, second, whole, samples_in(self.batch) // 2 * 2)
        scalars = {"gradient_noise/signal": found.signal, "gradient_noise/variance": found.variance}
        return scalars | ({"gradient_noise/scale": found.scale} if math.isfinite(found.scale) else {})

    def _pass(self, batch: Any, parameters: Mapping[str, Tensor]) -> Probe:
        twin = self.twin
        assert twin is not None
        twin.refresh()
        with isolated_rng(seed=0):
            return probe(twin.module, lambda: twin.aims(batch), parameters)

    def _rarely(self, step: int) -> bool:
        """Ten times a run, however long it is: what is too large for the history, or takes further passes."""
        tenth = self.total_steps / 10
        measured_before = step - self.period * self.histograms_every
        return step in (1, self.total_steps) or step // tenth > max(measured_before, 0) // tenth

    @staticmethod
    def _histograms(trainer: L.Trainer, found: Mapping[str, list[float]]) -> dict[str, Any]:
        step = trainer.global_step
        entries: dict[str, Any] = {}
        for tag, numbers in found.items():
            if counted := Histogram.of(numbers):
                entries[tag] = {"edges": counted.edges, "counts": counted.counts}
                for writer in writers(trainer):
                    writer.histogram(tag, counted, step)
        return entries

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.twin = None

    def state_dict(self) -> dict[str, Any]:
        """The fixed batch, so that a resumed run measures on; what of it comes again is left out."""
        batch = self.batch if is_plain(self.batch) else None
        if self.before is not None and batch is not None:
            batch = first_samples(batch, self.before) if self.before else None
        return {**super().state_dict(), "batch": batch, "whole": self.whole and batch is not None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.batch, self.whole = state_dict["batch"], state_dict.get("whole", False)


def _scalars(names: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, float]:
    layers = zip(names, rows, strict=True)
    return {f"{tag}/{name}": value for name, row in layers for tag, value in zip(TAGS, row, strict=True)}


def _unique(names: Sequence[str]) -> list[str]:
    if len(set(names)) == len(names):
        return list(names)
    return [f"{name}:{place}" for place, name in enumerate(names)]
