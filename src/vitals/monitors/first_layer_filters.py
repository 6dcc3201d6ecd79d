"""Pictures of what the first layer looks for."""

import base64
import io
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vitals.errors import UserError
from vitals.measures.filters import FilterStatistics, as_filters, filter_grid, filter_statistics
from vitals.measures.held_parameters import shown_name
from vitals.measures.layer_outputs import WEIGHTED
from vitals.monitors.monitor import Monitor
from vitals.probes.eagerly import eagerly
from vitals.probes.random_states import isolated_rng
from vitals.probes.twin import Twin
from vitals.probes.watched_step import Reached
from vitals.recorder import shared_twin
from vitals.writers.groups import Charts
from vitals.writers.registry import writers


class FirstLayerFilters(Monitor):
    """Draws the filters of the first layer, and measures whether they become smooth, clean and diverse.

    | tag | what |
    | --- | --- |
    | `filters/<layer>` | picture of up to 64 filters, each scaled to its own range |
    | `first_layer/smoothness` | correlation of neighbours: 0 for noise; kernels of 5 pixels and up |
    | `first_layer/moved` | 1 − cosine to the starting weights |
    | `first_layer/duplicates`, `first_layer/dead` | share of filters with a twin; of all but zero weights |

    The first layer is the first linear or convolutional one to be executed. It is shown where it is a
    convolution of 1 or 3 channels, or a linear layer on such images.

    Args:
        every_n_steps, times_per_run, times_per_epoch: see `Interval`.
    """

    station = "first-layer"
    kept = ("beginning",)

    charts: ClassVar[Charts] = {
        "first layer": {
            "moved, 1 - cosine to the start": ["Multiline", ["filters/moved$"]],
            "smoothness": ["Multiline", ["filters/smoothness$"]],
            "share of duplicates and of dead ones": ["Multiline", ["filters/(duplicates|dead)$"]],
        }
    }

    def __init__(
        self,
        every_n_steps: int | None = None,
        times_per_run: int | None = 10,
        times_per_epoch: int | None = None,
    ) -> None:
        super().__init__(every_n_steps, times_per_run, times_per_epoch)
        self.beginning: Tensor | None = None
        """The starting weights, from which a resumed run measures, too."""
        self.layer = ""
        self.filters: Callable[[], Tensor | None] | None = None
        self.measured = 0

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.filters, self.measured = None, trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.filters is None:
            self.retried(self._find, trainer, pl_module, batch)

    def _find(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> None:
        """Find the first layer in a pass of two samples through a copy, and draw it."""
        twin = shared_twin(trainer, module)
        twin.refresh()
        name, inputs = _first_layer(twin, twin.few(batch, 2))
        layer, shape = module.get_submodule(name), tuple(inputs[1:])
        filters = as_filters(layer, shape)
        images = any(isinstance(leaf, Tensor) and leaf.ndim == 4 for leaf in tree_leaves(batch))
        if filters is None and not images:  # of texts, tables and series nobody expects a picture
            self.active = False
            return
        if filters is None:
            raise UserError(f"the first layer '{name}' does not work on images of 1 or 3 channels.")
        # Under a parametrization, such as weight normalization, the weight is made anew each time.
        self.layer, self.filters = shown_name(name), lambda: as_filters(layer, shape)
        if self.beginning is None:
            self.beginning = filters.clone()
            self._measure(trainer)
        self.beginning = self.beginning.to(filters.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if self.filters is not None and self.due(step, self.measured):
            self.measured = step
            self.guarded(self._measure, trainer)

    def _measure(self, trainer: L.Trainer) -> None:
        filters = self.filters and self.filters()
        assert filters is not None
        assert self.beginning is not None
        grid = filter_grid(filters)
        figures = filter_statistics(filters, self.beginning)
        both = torch.cat([figures.view(torch.uint8), grid.flatten()]).numpy(force=True)  # one transfer
        size = 4 * len(figures)
        found = FilterStatistics(*both[:size].view(np.float32).tolist())
        scalars = {
            f"first_layer/{name}": value
            for name, value in vars(found).items()
            if value is not None and not math.isnan(value)
        }
        picture = both[size:].reshape(grid.shape)
        tag = f"filters/{self.layer}"
        for writer in writers(trainer):
            writer.image(tag, picture, trainer.global_step)
        self.record(trainer, scalars, {tag: {"png": _png(picture)}})


def _png(picture: np.ndarray) -> str:
    """uint8 (3, height, width) as a PNG file in base64."""
    file = io.BytesIO()
    image = Image.fromarray(picture.transpose(1, 2, 0))
    image.save(file, "PNG", compress_level=1)  # four times faster than the default, and 5% larger
    return base64.b64encode(file.getvalue()).decode()


def _first_layer(twin: Twin, batch: Any) -> tuple[str, torch.Size]:
    """Name and input shape of the first weighted layer to be executed."""
    reached: list[tuple[str, torch.Size]] = []

    def stop(name: str, module: Any, inputs: Any) -> None:
        reached.append((name, inputs[0].shape if inputs and isinstance(inputs[0], Tensor) else torch.Size()))
        raise Reached

    shapes: dict[str, torch.Size] = {}

    def network_input(module: Any, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            shapes.setdefault("images", inputs[0].shape)

    with suppress(Reached), ExitStack() as stack:
        for name, part in twin.module.named_modules():
            stack.enter_context(part.register_forward_pre_hook(network_input))
            if isinstance(part, WEIGHTED):
                hook = partial(stop, name)
                stack.enter_context(part.register_forward_pre_hook(hook))
        with isolated_rng(seed=0), eagerly():
            twin.losses(batch)
    if not reached:
        raise UserError("the training step runs no linear or convolutional layer.")
    [(name, shape)] = reached
    return name, shapes.get("images", shape)
