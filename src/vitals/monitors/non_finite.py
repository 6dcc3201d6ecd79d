"""The first NaN or infinity, with its step and its layer."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import lightning as L
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.optim import Optimizer

from vitals.findings import Finding
from vitals.length import is_due
from vitals.measures.finite import of_lost_epsilon
from vitals.measures.held_parameters import held_parameters, names_by_identity, shown_name
from vitals.measures.layer_outputs import layer_outputs
from vitals.measures.norms import norms, to_host
from vitals.monitors.monitor import Monitor, epoch_of, scales_gradients
from vitals.probes.random_states import isolated_rng
from vitals.probes.twin import Twin
from vitals.recorder import recorder_of
from vitals.writers.groups import Charts, in_groups
from vitals.writers.registry import writers

HUGE = 1e8
"""Norm of a gradient that is about to overflow."""
LEFT_OUT = 40
"""Steps in a row that a gradient scaler leaves out: each halves the scale, and what is not finite at 2^-24 is
no matter of scale."""


class NonFinite(Monitor):
    """Watches the loss and every gradient in every step, and names where NaN or infinity appears first.

    | tag | what |
    | --- | --- |
    | `gradient_norm` | norm of all gradients of a step, before clipping |

    On a CPU it looks at once, and searches inputs, weights and the layers in their order for the origin. On
    a GPU the figures of each step stay there until the next measurement, so that nothing waits: the step that
    it names is the right one all the same, and whether batch and weights were finite is kept, too. Which
    layer overflowed in that step cannot be told any more.

    Args:
        every_n_steps, times_per_run, times_per_epoch: of bringing the figures to the host; see `Interval`.
    """

    charts: ClassVar[Charts] = {"gradients": {"norm": ["Multiline", ["gradients/norm$"]]}}

    kept = ("waiting", "left_out", "losses", "found", "flushed")

    def __init__(
        self,
        every_n_steps: int | None = 50,
        times_per_run: int | None = None,
        times_per_epoch: int | None = None,
    ) -> None:
        super().__init__(every_n_steps, times_per_run, times_per_epoch)
        self.waiting: list[tuple[int, Tensor, list[str], list[tuple[str, Tensor]]]] = []
        """Step, norms of the gradients and their names, and of each of its batches which it is, its loss and
        whether it is finite. On a GPU the largest value of each of the parameters follows on the norms; on a
        CPU there are no batches."""
        self.latest: Tensor | None = None
        """Norms of the gradients that the optimizer is about to step with."""
        self.judges = True
        """Whether it says what it finds; not where something else ends the training for it."""
        self.left_out = 0
        """Steps in a row whose gradients are not finite."""
        self.losses: list[tuple[str, Tensor]] = []
        self.batch: Any = None
        self.found = False
        self.flushed = 0

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.named = names_by_identity(module)
        self.waiting, self.losses, self.flushed = [], [], trainer.global_step
        self.names: dict[int, list[str]] = {}
        # A gradient scaler leaves steps out whose gradients overflow: that is its work, as long as it ends.
        self.scaled = scales_gradients(trainer)
        self.left_out, self.judges = 0, True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch, self.number = batch if self.active else None, batch_idx + 1

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if not self.active or self.found or not self.judges:
            return
        if not loss.is_cpu:
            self.guarded(self._keep, trainer, loss.detach())
        elif not math.isfinite(loss.item()):
            self.guarded(self._trace_loss, trainer, pl_module)

    def _keep(self, trainer: L.Trainer, loss: Tensor) -> None:
        inputs = [values.isfinite().all() for values in _tensors(self.batch) if values.is_floating_point()]
        figures = torch.stack(
            [loss.float().reshape(()), *(finite.to(loss.device).float() for finite in inputs)]
        )
        self.losses.append((_place(trainer, self.number), figures))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        self.guarded(self._take_norms, trainer, optimizer)

    def _take_norms(self, trainer: L.Trainer, optimizer: Optimizer) -> None:
        gradients = gradients_of(optimizer)
        self.latest = None
        if not gradients:
            return
        names = self.names.get(id(optimizer), [])
        if len(names) != len(gradients):  # another set of parameters has gradients than before
            names = names_of(optimizer, self.named)
            self.names[id(optimizer)] = names
        step, sizes = trainer.global_step, norms(gradients)
        self.latest = sizes
        losses, self.losses = self.losses, []
        if sizes.is_cpu:
            self.waiting.append((step + 1, sizes, names, losses))
            self._examine(trainer, sizes.tolist(), names, step)
        else:
            weights = norms([parameter.detach() for parameter, _ in _with_gradient(optimizer)], math.inf)
            self.waiting.append((step + 1, torch.cat([sizes, weights]), names, losses))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if self.due(step, self.flushed):
            self.flushed = step
            self.guarded(self._flush, trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if is_due(trainer.current_epoch + 1):
            self.guarded(self._flush, trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.guarded(self._flush, trainer)
        super().on_train_end(trainer, pl_module)

    def _flush(self, trainer: L.Trainer) -> None:
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        rows = to_host(
            [figures for _, sizes, _, losses in waiting for figures in (sizes, *(of for _, of in losses))]
        )
        following = iter(rows)
        norm_of: dict[int, float] = {}
        before: list[float] = []
        for step, _, names, losses in waiting:
            row = next(following)
            sizes, weights = row[: len(names)], row[len(names) :]
            for place, (loss, *inputs) in zip((place for place, _ in losses), following, strict=False):
                if not (math.isfinite(loss) or self.found) and self.judges:
                    self._report(
                        trainer, of_late_loss(trainer, place, inputs, names, weights, before, step - 1)
                    )
            if weights:  # else it has been examined, at once
                self._examine(trainer, sizes, names, step - 1)
            # LBFGS evaluates several times a step: the last stands for it.
            norm_of[step] = math.sqrt(sum(norm * norm for norm in sizes))
            before = sizes
        first, last = min(norm_of), max(norm_of)
        for writer in writers(trainer):
            writer.scalars({in_groups("gradient_norm"): norm_of[last]}, last)
        if recorder := recorder_of(trainer):
            block = [norm_of.get(step, math.nan) for step in range(first, last + 1)]
            recorder.history.add_steps(last, epoch_of(trainer), {"gradient_norm": block})

    def _examine(self, trainer: L.Trainer, sizes: list[float], names: list[str], step: int) -> None:
        finite = are_finite(sizes)
        self.left_out = 0 if finite else self.left_out + 1
        if not (finite or self.found) and self.judges and (not self.scaled or self.left_out >= LEFT_OUT):
            others = trainer.world_size > 1
            self._report(trainer, of_gradient(trainer, sizes, names, step, self.scaled, others))

    def _trace_loss(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._report(trainer, of_loss(trainer, module, self.batch, self.number, trainer.global_step))

    def _report(self, trainer: L.Trainer, finding: Finding) -> None:
        self.found = True
        self.findings.append(finding)
        if recorder := recorder_of(trainer):
            recorder.announce(trainer, finding)


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    """The gradients that `optimizer` is about to step with, without the sparse ones."""
    return [gradient for _, gradient in _with_gradient(optimizer)]


def names_of(optimizer: Optimizer, named: Mapping[int, str]) -> list[str]:
    """The names of the parameters that `gradients_of` are of, from those by their `id`."""
    return [named.get(id(parameter), "a parameter") for parameter, _ in _with_gradient(optimizer)]


def _with_gradient(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    for parameter in held_parameters(optimizer):
        gradient = parameter.grad
        if gradient is not None and not gradient.is_sparse:
            yield parameter, gradient


def are_finite(sizes: list[float]) -> bool:
    """Whether each of some norms is finite; their sum need not be where each is."""
    return math.isfinite(sum(sizes)) or all(map(math.isfinite, sizes))


def of_gradient(
    trainer: L.Trainer,
    sizes: list[float],
    names: list[str],
    step: int,
    scaled: bool = False,
    others: bool = False,
) -> Finding:
    """What is said of gradients with these norms and names of their parameters, of which one is not finite,
    after `step` optimizer steps; `scaled` where a gradient scaler has left out `LEFT_OUT` steps in a row,
    `others` where there are processes of whose losses nothing is known here."""
    bad = [name for name, norm in zip(names, sizes, strict=True) if not math.isfinite(norm)]
    overflow = math.inf in sizes or max(filter(math.isfinite, sizes), default=0.0) > HUGE
    if scaled:
        seen = f"as in the {LEFT_OUT - 1} steps before it; the gradient scaler leaves all of them out"
        remedy = "Look for a square root, division or logarithm at zero in the loss or in that layer."
    elif overflow:
        seen = "after growing beyond all measure"
        remedy = "Lower the learning rate, warm it up, or clip the gradients."
    else:
        seen = "while the loss was finite"
        if others:
            seen += f" in process {trainer.global_rank}: in another one it may not have been"
        remedy = "Look for a square root, division or logarithm at zero in the loss or in that layer."
    which = f"'{bad[0]}'" + (f" and {len(bad) - 1} more of {len(names)} parameters" if bad[1:] else "")
    message = f"The gradient of {which} became NaN or infinite in step {step + 1}, {seen}."
    return not_finite(trainer, message, remedy, bad[0], step, exact=scaled or not (overflow or others))


def of_loss(trainer: L.Trainer, module: L.LightningModule, batch: Any, number: int, step: int) -> Finding:
    """What is said of a loss that is not finite, after `step` optimizer steps: where it began, in `batch`,
    the `number`-th of its epoch, in the weights or a layer of `module` as it was in that step."""
    where, seen, remedy = _origin(trainer, module, batch, number)
    message = f"The loss became NaN or infinite in step {step + 1}: {seen}"
    return not_finite(trainer, message, remedy, where, step, exact=where in ("input", "loss"))


def of_late_loss(
    trainer: L.Trainer,
    place: str,
    inputs: list[float],
    names: list[str],
    weights: list[float],
    before: list[float],
    step: int,
) -> Finding:
    """What is said, later, of a loss that was not finite after `step` optimizer steps, from what was kept
    then: `inputs`, 0 for each tensor of the batch at `place` that is not finite, the largest values of the
    `weights` with these `names`, and norms of the gradients in the step `before`."""
    bad = [name for name, largest in zip(names, weights, strict=True) if not math.isfinite(largest)]
    if not all(inputs):
        where, (seen, remedy) = "input", _of_input(place)
    elif bad:
        where, (seen, remedy) = bad[0], _of_weights(bad[0])
        remedy = of_lost_epsilon(trainer.optimizers) or remedy
    else:
        where, remedy = "loss", "Keep log and sqrt away from zero."
        seen = "its batch and the weights were finite, so that a layer overflowed or the loss itself did."
        grown = {"gradients": max(before, default=0.0), "weights": max(weights, default=0.0)}
        if what := next((what for what, size in grown.items() if size > HUGE), None):
            seen += f" The {what} had grown to {grown[what]:.0e} before it."
            remedy = "Lower the learning rate, warm it up, or clip the gradients."
    message = f"The loss became NaN or infinite in step {step + 1}: {seen}"
    return not_finite(trainer, message, remedy, where, step, exact=where == "input")


def not_finite(
    trainer: L.Trainer, message: str, remedy: str, where: str, step: int, exact: bool = False
) -> Finding:
    """That a number is not finite after `step` optimizer steps; `exact` where no rate can have done it, as
    the numbers that went in were finite."""
    epoch = round(epoch_of(trainer), 4)
    return Finding("non-finite-loss", "fail", message, remedy, where, step=step, epoch=epoch, exact=exact)


def _origin(trainer: L.Trainer, module: L.LightningModule, batch: Any, number: int) -> tuple[str, str, str]:
    if any(_bad(values) for values in _tensors(batch)):
        return "input", *_of_input(_place(trainer, number))
    for name, parameter in module.named_parameters():
        if _bad(parameter.detach()):
            seen, remedy = _of_weights(shown_name(name))
            return shown_name(name), seen, of_lost_epsilon(trainer.optimizers) or remedy
    # Not the shared copy: this one has whatever state the module keeps in the very step of the trouble.
    twin = Twin(trainer, module)
    twin.refresh()
    with isolated_rng(), torch.no_grad(), layer_outputs(twin.module) as layers:
        twin.losses(batch)
    for layer in layers:
        if _bad(layer.values):
            return (
                shown_name(layer.name),
                f"the output of '{shown_name(layer.name)}' overflows.",
                "Lower the learning rate or the scale of the weights.",
            )
    return "loss", "every layer is finite, the loss itself is not.", "Keep log and sqrt away from zero."


def _place(trainer: L.Trainer, number: int) -> str:
    return f"batch {number} of epoch {trainer.current_epoch + 1}"


def _of_input(place: str) -> tuple[str, str]:
    return f"the batch itself holds NaN or infinity, {place}.", "Mend or leave out those samples."


def _of_weights(name: str) -> tuple[str, str]:
    return (
        f"the weights of '{name}' are not finite since the update before.",
        "Lower the learning rate, clip gradients, or look for a division by zero in the loss.",
    )


def _bad(values: Tensor) -> bool:
    return values.is_floating_point() and not bool(values.isfinite().all())


def _tensors(batch: Any) -> Iterator[Tensor]:
    found: list[Tensor] = []
    apply_to_collection(batch, Tensor, found.append)
    return iter(found)
