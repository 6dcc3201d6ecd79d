"""Values of a configuration that are right alone and wrong together."""

from __future__ import annotations

from collections.abc import Iterator

from vitals.runs.config.schema import Experiment, Optimizer, Schedule


def clashes(experiment: Experiment) -> Iterator[str]:
    """A sentence for each set of values that are right alone and wrong together."""
    data, optimizer, schedule = experiment.data, experiment.optimizer, experiment.schedule
    momentum, trainer = experiment.momentum_schedule, experiment.trainer
    length = schedule.epochs or trainer.max_epochs
    end = "schedule.epochs" if schedule.epochs else "trainer.max_epochs"
    if schedule.epochs and schedule.epochs < trainer.max_epochs:
        yield (
            f"schedule.epochs={schedule.epochs} ends before the run does: it must be at least "
            f"trainer.max_epochs={trainer.max_epochs}."
        )
    if schedule.warmup_epochs > length:
        yield (
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} is longer than the run: it must be at most "
            f"{end}={length}."
        )
    given = {key for key in ("start", "end", "epochs") if getattr(momentum, key) is not None}
    if momentum.start is not None:
        if missing := {"end", "epochs"} - given:
            yield f"momentum_schedule.start={momentum.start} also needs momentum_schedule.{missing.pop()}."
        elif momentum.epochs and momentum.epochs > length:
            yield (
                f"momentum_schedule.epochs={momentum.epochs:g} is longer than the run: it must be at most "
                f"{end}={length}."
            )
        if not _has_momentum(optimizer):
            yield (
                f"momentum_schedule=ramp needs an optimizer with a momentum: "
                f"{_target(optimizer)} has none; take sgd, momentum, nesterov, rmsprop, adam or adamw."
            )
    yield from _average_clashes(experiment, length, end)
    if optimizer.nesterov and not optimizer.momentum:
        yield "optimizer.nesterov=true needs a momentum: set optimizer.momentum, for example to 0.9."
    if _target(optimizer) == "LBFGS":
        yield from _lbfgs_clashes(experiment)
    if data.name in ("cifar10", "cifar100", "image_folder") and data.root is None:
        yield f"data.root=null is not allowed with data={data.name}: name the folder of the images."
    if data.name != "image_folder" and data.crop_padding >= (size := data.image_size or 32):
        yield f"data.crop_padding={data.crop_padding} must be less than the images' {size} pixels."
    if trainer.accelerator == "cpu" and str(trainer.precision).startswith("16"):
        yield f"trainer.precision={trainer.precision} needs a GPU: on a CPU take 32-true or bf16-mixed."


def _average_clashes(experiment: Experiment, length: int, end: str) -> Iterator[str]:
    """Of the averaging of weights, and of the late rate that goes with it.

    Args:
        experiment: the whole configuration.
        length: epochs of the whole run.
        end: the key that says so.
    """
    average, late = experiment.average, experiment.schedule.late
    if average.kind and isinstance(average.start, int) and average.start >= length:
        yield (
            f"average.start={average.start} begins after the run's end: it must be less than {end}={length}."
        )
    if average.kind and experiment.trainer.strategy.startswith(("fsdp", "deepspeed")):
        yield (
            f"average needs whole weights on every device, and trainer.strategy="
            f"{experiment.trainer.strategy} shards them: take average=none."
        )
    if late.start is None:
        return
    if _target(experiment.schedule) == "ReduceLROnPlateau":
        yield "schedule.late cannot go with schedule=plateau, whose rate follows the accuracy: leave it out."
    if isinstance(late.start, int) and late.start >= length:
        yield (
            f"schedule.late.start={late.start} begins after the run's end: it must be less than "
            f"{end}={length}."
        )
    if (late.low is None) != (late.cycle_epochs is None):
        missing = "low" if late.low is None else "cycle_epochs"
        yield f"schedule.late in cycles needs both low and cycle_epochs: set schedule.late.{missing}, too."


LBFGS_LIMIT = 5000
"""Training images up to which a full-batch step stays within a few seconds and a few GiB."""


def _lbfgs_clashes(experiment: Experiment) -> Iterator[str]:
    data, trainer = experiment.data, experiment.trainer  # an image folder is counted when it is read
    images = {"cifar10": 50_000, "cifar100": 50_000}.get(data.name, 0)
    if min(images, data.limit or images) > LBFGS_LIMIT:
        yield (
            f"optimizer=lbfgs takes the whole training set as one batch, and data={data.name} has "
            f"{images:,} images: take data=digits, or data.limit={LBFGS_LIMIT} or less."
        )
    if trainer.accumulate_grad_batches > 1:
        yield (
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} cannot go with "
            f"optimizer=lbfgs: it must be 1."
        )
    if trainer.gradient_clip_val is not None:
        yield (
            f"trainer.gradient_clip_val={trainer.gradient_clip_val:g} cannot go with optimizer=lbfgs, whose "
            f"line search needs the true gradient: it must be null."
        )


def _target(component: Optimizer | Schedule) -> str:
    return str((component.model_extra or {}).get("_target_", "")).rpartition(".")[-1]


def _has_momentum(optimizer: Optimizer) -> bool:
    return bool({"momentum", "betas"} & optimizer.model_fields_set)
