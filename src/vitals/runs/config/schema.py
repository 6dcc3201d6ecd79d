"""The typed schema of the configurations: what each value may be.

It states types and ranges; the values themselves stand once, in the YAML files. The keys that every project
has are here, a project's own in its schema, a subclass of `RunSchema`. Importable without torch, so that a
wrong value is answered at once.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Annotated, Any, ClassVar, Literal, Self

from omegaconf import OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from vitals.checks.registry import require_name
from vitals.errors import UserError, did_you_mean
from vitals.runs.config.trainer_arguments import TRAINER, complaint

# The description of a type says what is right; where null is, too, the type is followed by `| None`.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number greater than 0")]
Seconds = Annotated[float, Field(gt=0, description="seconds above 0, or inf for no limit")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of 0 or more")]
Share = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1, description="a number from 0 up to, but not including, 1")]
ShareBetween = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1, both excluded")]
Count = Annotated[int, Field(ge=1, description="a whole number of 1 or more")]
CountOrZero = Annotated[int, Field(ge=0, description="a whole number of 0 or more")]
TwoOrMore = Annotated[int, Field(ge=2, description="a whole number of 2 or more")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="a whole number from 0 to 4294967295")]
Port = Annotated[int, Field(ge=1, le=65535, description="a whole number from 1 to 65535")]
Number = Annotated[int | float, Field(description="a number")]
WholeNumber = Annotated[int, Field(description="a whole number")]
Switch = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="text", min_length=1)]
Start = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)],
    Field(description="a share of the run from 0 up to, but not including, 1, or a whole number of epochs"),
]
BatchLimit = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)],
    Field(description="a whole number of batches of 1 or more, or a share greater than 0 and up to 1.0"),
]
BatchLimitOrZero = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)],
    Field(description="a whole number of batches, a share of them from 0 to 1.0, or 0 for none"),
]
Interval = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] | str | dict[str, Any],
    Field(
        description="a whole number of batches of 1 or more, a share of an epoch greater than 0 and up to "
        "1.0, or a time, DD:HH:MM:SS"
    ),
]
Epochs = Annotated[
    Annotated[int, Field(ge=1)] | Literal[-1] | None,
    Field(description="a whole number of 1 or more, or -1 or null where max_steps or max_time ends the run"),
]
Steps = Annotated[
    Annotated[int, Field(ge=1)] | Literal[-1],
    Field(description="a whole number of optimizer steps of 1 or more, or -1 for no such end"),
]
Devices = Annotated[
    Annotated[int, Field(ge=1)] | list[int] | Literal["auto", -1],
    Field(description="a whole number of 1 or more, a list of device numbers such as [0,1], or auto"),
]
RunFolders = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(description="a list of two to six run folders, [a,b]", min_length=2, max_length=6),
]
Keys = Annotated[list[Text], Field(min_length=1)]
Zip = Annotated[
    Keys | list[Keys],
    Field(description="a list of keys whose values go together, [a,b], or several, [[a,b],[c,d]]"),
]
SampleCount = Annotated[int, Field(ge=128, description="a whole number of 128 or more")]


def _check_name(name: str) -> str:
    try:
        return require_name(name)
    except UserError as error:
        raise ValueError(str(error)) from None


CheckName = Annotated[str, AfterValidator(_check_name)]
SHORT = Literal["32", "64", "bf16", "16", 32, 64, 16]
PRECISIONS = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", SHORT]
SweepDevices = Annotated[
    Literal["auto", "cpu"] | Annotated[list[CountOrZero], Field(min_length=1)],
    Field(description="auto, cpu or a list of numbers of GPUs such as [0,1]"),
]

Trust = Annotated[
    Text | list[Text], Field(description="a dotted name or the beginning of one, or a list of them")
]


class Strict(BaseModel):
    """Has these keys and no others."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Component(BaseModel):
    """Has a `_target_`, and further keys that are arguments of its constructor.

    Where the target is none of `ours`, the keys are arguments of somebody else's constructor, and none is
    looked at but those that are `common` to all; `stand_ins` take the place of those that it need not have.
    """

    model_config = ConfigDict(strict=True, extra="allow")
    ours: ClassVar[tuple[str, ...]] = ("",)
    """Beginnings of the targets that the fields are made for."""
    common: ClassVar[tuple[str, ...]] = ()
    stand_ins: ClassVar[dict[str, Any]] = {}
    target: Text | None = Field(alias="_target_")

    @model_validator(mode="wrap")
    @classmethod
    def _others_have_keys_of_their_own(cls, values: Any, check: Callable[[Any], Self]) -> Self:
        target = values.get("_target_") if isinstance(values, dict) else None
        if not isinstance(target, str) or target.startswith(cls.ours):
            return check(values)
        if not cls.common:
            return cls.model_construct(target=target)
        known = {key: value for key, value in values.items() if key in cls.common}
        return check({"_target_": target, **cls.stand_ins, **known})

    @property
    def class_name(self) -> str:
        """The last part of the target."""
        return str(self.target).rpartition(".")[-1]


def components(group: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `callbacks` or `logger` that name their class. An experiment may have values for others,
    which what was chosen on the command line does not bring."""
    entries = {name: entry for name, entry in group.items() if isinstance(entry, Mapping)}
    return {name: entry for name, entry in entries.items() if entry.get("_target_")}


def _brought(group: str) -> set[str]:
    """The names of all that a choice of ours may bring."""
    choices = (files("vitals.configs") / group).iterdir()
    names = {str(name) for choice in choices for name in OmegaConf.create(choice.read_text("utf-8"))}
    return names - {"defaults"}


def _may_stand(entry: Any) -> bool:
    """Whether an entry of a group is the keys of a class, or nothing."""
    return entry is None or isinstance(entry, Mapping)


class Checks(Component):
    which: Annotated[list[CheckName], Field(description="a list of names of checks")]
    on_fail: Literal["stop", "warn"]
    elements: Count
    burn_in_steps: CountOrZero
    tiny_subset_steps: Count
    samples: SampleCount
    budget: Seconds | None


class Average(Component):
    """Types alone: `vitals.averaging.WeightAverage`, which is built before the run, knows the ranges."""

    ours = ("vitals.",)
    kind: Text = "swa"
    start: Number = 0
    every: Annotated[int | str, Field(description="epoch or a whole number")] = "epoch"
    epochs: WholeNumber | None = None
    decay: Number = 0.5
    last: WholeNumber = 1
    batch_norm_batches: WholeNumber = 1


class Diagnosis(Strict):
    stop_on: Literal["fail", "never"]
    probe: Switch
    exit_code: Switch
    report: Switch
    rules: list[Text]


class Trainer(Component):
    """Any argument of Lightning's Trainer; these have narrower limits than its signature gives."""

    max_epochs: Epochs
    max_steps: Steps = -1
    check_val_every_n_epoch: Count | None = 1
    val_check_interval: Interval | None = None
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Devices
    strategy: Annotated[str | dict[str, Any], Field(description="text or keys with a _target_", min_length=1)]
    precision: PRECISIONS
    gradient_clip_val: Positive | None
    accumulate_grad_batches: Count
    limit_train_batches: BatchLimit
    limit_val_batches: BatchLimitOrZero
    limit_test_batches: BatchLimitOrZero
    deterministic: Annotated[bool | Literal["warn"], Field(description="true, false or warn")]
    log_every_n_steps: Count

    @property
    def epochs(self) -> float:
        """After which it ends at the latest; infinite where steps or the clock end it."""
        return self.max_epochs if self.max_epochs and self.max_epochs > 0 else math.inf


class Launcher(Component):
    """Where the jobs of a sweep run; see `vitals.sweeps.jobs.backends`."""

    model_config = ConfigDict(extra="forbid")
    ours = ("vitals.",)
    devices: SweepDevices = "auto"
    jobs_per_device: Count = 1
    devices_per_job: Count | None = None
    time_limit: Positive | None = None
    fork_server: Switch = True
    address: Text = "local"
    cpus: Count | None = None
    gpus: CountOrZero | None = None
    cpus_per_device: Count = 1
    partition: Text | None = None
    gpus_per_device: CountOrZero = 1
    memory_gb: Count = 1
    minutes: Count = 1
    requeues: CountOrZero = 0
    parallel: Count = 1
    setup: list[Text] = []


class Search(Component):
    """Which jobs a sweep has; see `vitals.sweeps.search.search`."""

    model_config = ConfigDict(extra="forbid")
    ours = ("vitals.",)
    sampler: Literal["random", "tpe"] | None = None
    trials: Count = 1
    seed: Seed = 0
    stop_hopeless: Switch = False
    space: dict[str, Text] = {}
    points: TwoOrMore = 5
    startup: Count = 10
    stage_epochs: list[Count | None] = []
    stage_jobs: list[
        Annotated[
            Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)],
            Field(description="a whole number of 1 or more, or a share greater than 0 and up to 1.0"),
        ]
    ] = []


class MetricChoice(Strict):
    name: Text
    mode: Literal["max", "min"]
    tie_breaker: Text | None


class CheckpointIntervals(Strict):
    every_minutes: Positive | None = None
    every_n_steps: Count | None = None
    every_n_epochs: Count | None = 1


class RunSchema(Strict):
    """The keys of `train.yaml` that every project has; a project's schema adds its own to them.

    Types and ranges of single values are fields. What is right alone and wrong together is said by `clashes`.
    """

    name: Text | None
    seed: Seed | None
    resume: Text | None
    overwrite: Switch = False
    on_nonfinite: Literal["stop", "skip", "rollback"] | None = "stop"
    threads: Count | None = None
    trust: Trust = []
    metric: MetricChoice
    checkpoint: CheckpointIntervals | None = None
    trainer: Trainer
    logger: dict[str, Any]
    callbacks: dict[str, Any]
    checks: Checks
    average: Average
    diagnosis: Diagnosis
    launcher: Launcher | None = None
    search: Search | None = None
    stop_hopeless: Switch
    resume_sweep: Text | None = None
    zip: Zip | None = None
    repeats: Count = 1

    def clashes(self) -> Iterator[str]:
        """A sentence for each set of values that are right alone and wrong together."""
        trainer = self.trainer
        further = trainer.model_extra if trainer.target == TRAINER else {}
        yield from filter(None, (complaint(name, value) for name, value in (further or {}).items()))
        if trainer.epochs == math.inf and trainer.max_steps < 0 and not (further or {}).get("max_time"):
            yield "the run has no end: set trainer.max_epochs, trainer.max_steps or trainer.max_time."
        for group in ("callbacks", "logger"):
            entries, brought = getattr(self, group), _brought(group)
            for name in sorted(name for name in brought & set(entries) if not _may_stand(entries[name])):
                said = f"{group}.{name}={entries[name]} is not allowed"
                yield f"{said}: it has keys of its own; null leaves it out."
            for name in sorted(set(entries) - set(components(entries)) - brought):
                yield (
                    f"{group}.{name} names no class, as {group}.{name}._target_=package.Name does, and is "
                    f"none of ours: {did_you_mean(name, brought)}"
                )
        if trainer.limit_val_batches == 0 and "early_stopping" in components(self.callbacks):
            yield "callbacks=early_stopping needs validations: trainer.limit_val_batches=0 leaves them out."
        if "learning_curves" not in components(self.callbacks):
            yield (
                "callbacks has no learning_curves, which write the record of a run: take callbacks=none, or "
                "in a list, such as [default,early_stopping], one of the presets."
            )
        strategy, precision = str(trainer.strategy), str(trainer.precision)
        if self.average.target and any(word in strategy.lower() for word in ("fsdp", "deepspeed")):
            yield (
                f"average needs whole weights on every device, and trainer.strategy={strategy} shards them: "
                f"take average=none."
            )
        if trainer.accelerator == "cpu" and precision.startswith("16"):
            yield f"trainer.precision={precision} needs a GPU: on a CPU take 32-true or bf16-mixed."


class Evaluation(Strict):
    """The whole configuration of `scripts/evaluate.py`."""

    run: Text
    checkpoint: Text
    split: Literal["test", "val"]
    tta: Literal["none", "flip", "full", "unsure"]
    data_root: Text | None
    trust: Trust = []


class Ensemble(Strict):
    """The whole configuration of `scripts/ensemble.py`."""

    runs: Annotated[list[str], Field(description="a list of folders of runs")]
    sweep: Text | None
    run: Text | None
    top: TwoOrMore
    checkpoint: Text
    split: Literal["test", "val"]
    data_root: Text | None
    trust: Trust = []
    folder: Text


class Report(Strict):
    """The whole configuration of `scripts/report.py`."""

    run: Text | None
    runs: RunFolders | None
    out: Text | None = None
    watch: Switch = False
    port: Port | None = None
