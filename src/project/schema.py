"""What the keys of your config groups may be, on top of those that every run has (`RunSchema`).

A `_target_` of your own needs no line here: its keys are the arguments of its constructor. Importable without
torch, so that a wrong value is answered at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from vitals.files import existing_folder
from vitals.runs.config import schema as types

OURS = "project."
IMAGE_DATA = f"{OURS}data.data_module.ImageData"
NETWORKS = tuple(
    f"{OURS}networks.{name}." for name in ("convnet", "fast", "mlp", "resnet18", "three_layer", "vgg")
)
SourceName = Literal["cifar10", "cifar100", "image_folder", "digits"]
LBFGS_LIMIT = 5000
"""Training images up to which a full-batch step stays within a few seconds and a few GiB."""
Counts = Annotated[list[types.Count], Field(description="a list of whole numbers of 1 or more", min_length=1)]
Flip = Annotated[types.Switch | Literal["alternating"], Field(description="true, false or alternating")]
Stages = Annotated[
    list[Annotated[list[types.Count], Field(min_length=1)]],
    Field(description="a list of lists of whole numbers of 1 or more", min_length=1),
]
Betas = Annotated[
    list[types.ShareBelowOne],
    Field(description="a list of two numbers from 0 up to, but not including, 1", min_length=2, max_length=2),
]


class Data(types.Component):
    model_config = ConfigDict(extra="forbid")
    ours = (IMAGE_DATA,)
    source: SourceName
    root: types.Text | None
    image_size: types.Count | None
    batch_size: types.Count
    validation_fraction: types.ShareBetween
    test_fraction: types.ShareBetween = 0.2
    split_seed: types.Seed
    limit: types.Count | None
    crop_padding: types.CountOrZero
    flip: Flip
    sizes: Counts | None = None
    skip_unreadable: types.Switch = False
    mapped: types.Switch | None = None

    def clashes(self) -> Iterator[str]:
        if (self.source == "digits") != (self.root is None):
            meant = "leave it out" if self.root else "name the folder of the images"
            yield f"data.root={self.root or 'null'} is not allowed with data={self.source}: {meant}."
        elif self.source == "image_folder":
            existing_folder(str(self.root), "data.root", "the folder of the images")
        elif self.crop_padding >= (size := self.image_size or 32):  # said before anything is downloaded
            yield f"data.crop_padding={self.crop_padding} must be less than the images' {size} pixels."
        if self.source in ("cifar10", "cifar100") and len(Path(str(self.root)).parts) > 1:
            # One of the working folder, as the default is, is made; others are mistyped more often.
            what = "the folder of the images, or make it, and they are downloaded to it"
            existing_folder(str(self.root), "data.root", what)


class Module(types.Component):
    model_config = ConfigDict(extra="forbid")
    ours = (f"{OURS}module.ImageClassifier",)
    label_smoothing: types.ShareBelowOne


class Initialization(types.Component):
    ours = (OURS,)
    std: types.Positive = 0.01


class Network(types.Component):
    ours = NETWORKS
    activation: Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"] = "relu"
    norm: Literal["batch", "group", "layer", "none"] = "batch"
    dropout: types.ShareBelowOne = 0.0
    channels_last: types.Switch = False
    whiten: types.Switch = False
    initialization: Initialization
    widths: Counts = Field([1])
    stages: Stages = Field([[1]])
    filters: types.Count = 1
    kernel_size: types.Count = 1
    stem: types.Count = 1
    stride: types.Count = 1
    hidden: types.Count = 1
    depth: types.Count = 1
    width: types.Count = 1


class Optimizer(types.Component):
    ours = (OURS, "torch.optim.")
    common = ("lr", "momentum", "betas", "weight_decay", "decay_bias_and_norm")
    stand_ins: ClassVar = {"lr": 1.0}
    lr: types.Positive
    momentum: types.ShareBelowOne = 0.0
    nesterov: types.Switch = False
    weight_decay: types.NonNegative = 0.0
    decay_bias_and_norm: types.Switch = False
    betas: Betas = Field([0.9, 0.999])
    alpha: types.ShareBelowOne = 0.99
    rho: types.ShareBelowOne = 0.9
    eps: types.NonNegative = 1e-8
    normalize: types.Switch = False
    rest_lr_scale: types.Positive = 1.0
    ns_steps: types.Count = 5
    max_iter: types.Count = 20
    history_size: types.Count = 10


class LateRate(types.Strict):
    start: types.Start | None
    rate: types.Positive
    cycle_epochs: types.Positive | None
    low: types.NonNegative | None


class Schedule(types.Component):
    ours = (OURS, "torch.")
    common = ("warmup_epochs", "epochs", "late")
    warmup_epochs: types.NonNegative
    epochs: types.Count | None
    late: LateRate
    every: types.Count = 1
    factor: types.ShareBetween = 0.5
    k: types.NonNegative = 0.0
    patience: types.CountOrZero = 0
    rise: types.ShareBetween = 0.3
    initial: types.Share = 0.0
    final: types.Share = 0.0


class MomentumSchedule(types.Component):
    model_config = ConfigDict(extra="forbid")
    ours = (OURS,)
    start: types.ShareBelowOne = 0.0
    end: types.ShareBelowOne = 0.0
    epochs: types.Positive = 1.0


class Experiment(types.RunSchema):
    """The whole configuration of `scripts/train.py`."""

    compile: Annotated[
        types.Switch | Literal["default", "reduce-overhead", "max-autotune"],
        Field(description="true or false, or default, reduce-overhead or max-autotune"),
    ]
    data: Data
    module: Module
    # Left out where the module makes its own.
    network: Network = Network.model_construct(target=None)
    optimizer: Optimizer = Optimizer.model_construct(target=None)
    schedule: Schedule = Schedule.model_construct(
        target=None, warmup_epochs=0.0, epochs=None, late=LateRate.model_construct(start=None)
    )
    momentum_schedule: MomentumSchedule = MomentumSchedule.model_construct(target=None)

    def clashes(self) -> Iterator[str]:
        """A sentence for each set of values that are right alone and wrong together."""
        limit = self.trainer.limit_train_batches
        tried_only = isinstance(limit, int) and limit == 1  # one batch tries the code, not the schedule
        optimizer, schedule, momentum = self.optimizer, self.schedule, self.momentum_schedule
        length, end = self.trainer.epochs, "trainer.max_epochs"
        if schedule.epochs:
            if schedule.epochs < length < float("inf"):
                yield (
                    f"schedule.epochs={schedule.epochs} ends before the run does: it must be at least "
                    f"trainer.max_epochs={length}."
                )
            length, end = schedule.epochs, "schedule.epochs"
        ramp = momentum.epochs if momentum.target else 0
        lengths = {"schedule.warmup_epochs": schedule.warmup_epochs, "momentum_schedule.epochs": ramp}
        for key, epochs in lengths.items():
            if epochs > length and not tried_only:
                yield f"{key}={epochs:g} is longer than the run: it must be at most {end}={length}."
        if momentum.target and not {"momentum", "betas"} & optimizer.model_fields_set:
            yield (
                f"momentum_schedule=ramp needs an optimizer with a momentum: {optimizer.class_name} "
                f"has none; take sgd, momentum, nesterov, rmsprop, adam or adamw."
            )
        averaged = self.average.start if self.average.target else 0
        starts = {"average.start": averaged, "schedule.late.start": schedule.late.start}
        for key, start in starts.items():
            if isinstance(start, int) and start >= length:
                yield f"{key}={start} begins after the run's end: it must be less than {end}={length}."
        if schedule.class_name == "ReduceLROnPlateau" and self.trainer.limit_val_batches == 0:
            yield "schedule=plateau follows the validations, and trainer.limit_val_batches=0 leaves them out."
        yield from self._late_clashes()
        if optimizer.nesterov and not optimizer.momentum:
            yield "optimizer.nesterov=true needs a momentum: set optimizer.momentum, for example to 0.9."
        if optimizer.class_name == "LBFGS":
            yield from self._lbfgs_clashes()
        if self.data.target == IMAGE_DATA:
            yield from self.data.clashes()
        yield from super().clashes()

    def _late_clashes(self) -> Iterator[str]:
        late = self.schedule.late
        if late.start is None:
            return
        if self.schedule.class_name == "ReduceLROnPlateau":
            yield "schedule.late cannot go with schedule=plateau, whose rate follows a metric: leave it out."
        if (late.low is None) != (late.cycle_epochs is None):
            yield "schedule.late in cycles needs both: set schedule.late.low and schedule.late.cycle_epochs."

    def _lbfgs_clashes(self) -> Iterator[str]:
        data, trainer = self.data, self.trainer  # an image folder is counted when it is read
        cifar = data.target == IMAGE_DATA and data.source.startswith("cifar")
        if cifar and (data.limit or 50_000) > LBFGS_LIMIT:
            yield (
                f"optimizer=lbfgs takes the whole training set as one batch, and data={data.source} has "
                f"50,000 images: take data=digits, or data.limit={LBFGS_LIMIT} or less."
            )
        if (batches := trainer.accumulate_grad_batches) > 1:
            yield f"trainer.accumulate_grad_batches={batches} cannot go with optimizer=lbfgs: it must be 1."
        if trainer.gradient_clip_val is not None:
            yield (
                f"trainer.gradient_clip_val={trainer.gradient_clip_val:g} cannot go with optimizer=lbfgs, "
                f"whose line search needs the true gradient: it must be null."
            )
