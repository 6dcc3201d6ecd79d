"""The typed schema of the configurations: what each value may be.

It states types and ranges; the values themselves stand once, in `configs/`. Components with a `_target_`
may have further keys, which are arguments of their constructor. Importable without torch, so that a wrong
value is answered at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def number(words: str, optional: bool = False, **limits: Any) -> Any:
    """A field whose right values `words` describe, with the limits that pydantic knows."""
    return Field(description=words + (" or null" if optional else ""), **limits)


Positive = Annotated[float, number("a number greater than 0", gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, number("a number of 0 or more", ge=0, allow_inf_nan=False)]
OptionalPositive = Annotated[float | None, number("a number greater than 0", True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, number("a number from 0 to 1", ge=0, le=1)]
ShareBelowOne = Annotated[float, number("a number from 0 up to, but not including, 1", ge=0, lt=1)]
ShareBetween = Annotated[float, number("a number between 0 and 1, both excluded", gt=0, lt=1)]
OptionalShareBelowOne = Annotated[
    float | None, number("a number from 0 up to, but not including, 1,", True, ge=0, lt=1)
]
OptionalNonNegative = Annotated[
    float | None, number("a number of 0 or more", True, ge=0, allow_inf_nan=False)
]
Count = Annotated[int, number("a whole number of 1 or more", ge=1)]
CountOrZero = Annotated[int, number("a whole number of 0 or more", ge=0)]
OptionalCount = Annotated[int | None, number("a whole number of 1 or more,", True, ge=1)]
OptionalCountOrZero = Annotated[int | None, number("a whole number of 0 or more,", True, ge=0)]
Seed = Annotated[int | None, number("a whole number from 0 to 4294967295,", True, ge=0, le=2**32 - 1)]
SplitSeed = Annotated[int, number("a whole number from 0 to 4294967295", ge=0, le=2**32 - 1)]
Switch = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="text", min_length=1)]
OptionalText = Annotated[str | None, Field(description="text or null", min_length=1)]
Start = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)],
    Field(description="a share of the run from 0 up to, but not including, 1, or a whole number of epochs"),
]
OptionalStart = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] | None,
    Field(description="a share of the run from 0 up to, but not including, 1, a number of epochs, or null"),
]
Every = Annotated[
    Annotated[int, Field(ge=1)] | Literal["epoch"],
    Field(description="epoch or a whole number of optimizer steps of 1 or more"),
]
BatchLimit = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)],
    Field(description="a whole number of batches of 1 or more, or a share greater than 0 and up to 1.0"),
]
Devices = Annotated[
    Annotated[int, Field(ge=1)] | list[int] | Literal["auto"],
    Field(description="a whole number of 1 or more, a list of device numbers, or auto"),
]
Widths = Annotated[list[Count], Field(description="a list of whole numbers of 1 or more", min_length=1)]
Stages = Annotated[
    list[Annotated[list[Count], Field(min_length=1)]],
    Field(description="a list of lists of whole numbers of 1 or more", min_length=1),
]
RunFolders = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=6)] | None,
    Field(description="a list of two to six run folders, [a,b], or null"),
]
SampleCount = Annotated[int, number("a whole number of 128 or more", ge=128)]
CheckName = Annotated[
    Literal[
        "inputs",
        "wiring",
        "validation_mode",
        "gradients",
        "gradients_after_burn_in",
        "difference_step",
        "loss_at_chance",
        "layer_variance",
        "regularization",
        "tiny_subset",
        "informative_inputs",
        "step_size",
    ],
    Field(description="a check of configs/checks/full.yaml"),
]
ACTIVATIONS = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"]
NORMS = Literal["batch", "group", "layer", "none"]
PRECISIONS = Literal[
    "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "64", "bf16", 32, 64
]
SweepDevices = Annotated[
    Literal["auto", "cpu"] | Annotated[list[CountOrZero], Field(min_length=1)],
    Field(description="auto, cpu or a list of numbers of GPUs"),
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Component(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Data(_Strict):
    name: Literal["cifar10", "cifar100", "image_folder", "digits"]
    root: OptionalText
    image_size: OptionalCount
    batch_size: Count
    validation_fraction: ShareBetween
    test_fraction: ShareBetween = 0.2
    split_seed: SplitSeed
    limit: OptionalCount
    crop_padding: CountOrZero
    flip: Switch


class Initialization(_Component):
    std: Positive = 0.01


class Network(_Component):
    activation: ACTIVATIONS = "relu"
    norm: NORMS = "batch"
    dropout: ShareBelowOne = 0.0
    channels_last: Switch = False
    initialization: Initialization
    widths: Widths = [1]
    stages: Stages = [[1]]
    filters: Count = 1
    kernel_size: Count = 1
    hidden: Count = 1
    depth: Count = 1
    width: Count = 1


class Optimizer(_Component):
    lr: Positive
    momentum: ShareBelowOne = 0.0
    nesterov: Switch = False
    weight_decay: NonNegative = 0.0
    decay_bias_and_norm: Switch = False
    betas: Annotated[
        list[ShareBelowOne],
        Field(description="two numbers from 0 up to, but not including, 1", min_length=2, max_length=2),
    ] = [0.9, 0.999]
    alpha: ShareBelowOne = 0.99
    rho: ShareBelowOne = 0.9
    eps: NonNegative = 1e-8
    max_iter: Count = 20
    history_size: Count = 10


class LateRate(_Strict):
    start: OptionalStart
    rate: Positive
    cycle_epochs: OptionalPositive
    low: OptionalNonNegative


class Schedule(_Component):
    warmup_epochs: NonNegative
    epochs: OptionalCount
    late: LateRate
    every: Count = 1
    factor: ShareBetween = 0.5
    k: NonNegative = 0.0
    patience: CountOrZero = 0
    rise: ShareBetween = 0.3
    initial: Share = 0.0
    final: Share = 0.0


class MomentumSchedule(_Strict):
    start: OptionalShareBelowOne
    end: OptionalShareBelowOne
    epochs: OptionalPositive


class Checks(_Strict):
    which: list[CheckName]
    on_fail: Literal["stop", "warn"]
    elements: Count
    burn_in_steps: CountOrZero
    tiny_subset_steps: Count
    samples: SampleCount


class Average(_Strict):
    kind: Annotated[Literal["swa", "ema", "last_k"] | None, Field(description="swa, ema, last_k or null")]
    start: Start
    every: Every
    epochs: OptionalCount
    decay: ShareBetween = 0.5
    last: Count = 1
    batch_norm_batches: Annotated[int, number("a whole number from 1 to 100", ge=1, le=100)]


class Diagnosis(_Strict):
    stop_on: Literal["fail", "never"]
    probe: Switch
    exit_code: Switch
    report: Switch


class Trainer(_Component):
    max_epochs: Count
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Devices
    strategy: Text
    precision: PRECISIONS
    gradient_clip_val: OptionalPositive
    accumulate_grad_batches: Count
    limit_train_batches: BatchLimit
    limit_val_batches: BatchLimit
    limit_test_batches: BatchLimit
    deterministic: Annotated[bool | Literal["warn"], Field(description="true, false or warn")]
    log_every_n_steps: Count


class Launcher(_Strict):
    """Where the jobs of a sweep run; see `vitals.sweeps.jobs.backends`."""

    name: Literal["local", "ray", "slurm"] = "local"
    devices: SweepDevices = "auto"
    jobs_per_device: Count = 1
    devices_per_job: OptionalCount = None
    time_limit: OptionalPositive = None
    fork_server: Switch = True
    address: Text = "local"
    cpus: OptionalCount = None
    gpus: OptionalCountOrZero = None
    cpus_per_device: Count = 1
    partition: OptionalText = None
    gpus_per_device: CountOrZero = 1
    memory_gb: Count = 1
    minutes: Count = 1
    requeues: CountOrZero = 0
    parallel: Count = 1
    setup: list[Text] = []


class Search(_Strict):
    """Which jobs a sweep has; see `vitals.sweeps.search.search`."""

    name: Literal["grid", "random", "tpe", "coarse_to_fine"] = "grid"
    trials: Count = 1
    seed: SplitSeed = 0
    stop_hopeless: Switch = False
    space: dict[str, Text] = {}
    points: Annotated[int, number("a whole number of 2 or more", ge=2)] = 5
    startup: Count = 10
    stage_epochs: list[OptionalCount] = []
    stage_jobs: list[
        Annotated[
            Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)],
            Field(description="a whole number of 1 or more, or a share greater than 0 and up to 1.0"),
        ]
    ] = []


class Experiment(_Strict):
    """The whole configuration of `scripts/train.py`."""

    name: Text
    seed: Seed
    resume: OptionalText
    label_smoothing: ShareBelowOne
    compile: Switch
    data: Data
    network: Network
    optimizer: Optimizer
    schedule: Schedule
    momentum_schedule: MomentumSchedule
    trainer: Trainer
    logger: dict[str, Any]
    callbacks: dict[str, Any]
    checks: Checks
    average: Average
    diagnosis: Diagnosis
    launcher: Launcher = Launcher()
    search: Search = Search()
    stop_hopeless: Switch
    resume_sweep: OptionalText = None


class Evaluation(_Strict):
    """The whole configuration of `scripts/evaluate.py`."""

    run: Text
    checkpoint: Text
    split: Literal["test", "val"]
    data_root: OptionalText


class Ensemble(_Strict):
    """The whole configuration of `scripts/ensemble.py`."""

    runs: Annotated[list[str], Field(description="a list of folders of runs")]
    sweep: OptionalText
    run: OptionalText
    top: Annotated[int, number("a whole number of 2 or more", ge=2)]
    checkpoint: Text
    split: Literal["test", "val"]
    data_root: OptionalText
    folder: Text


class Report(_Strict):
    """The whole configuration of `scripts/report.py`."""

    run: OptionalText
    runs: RunFolders
