"""The kinds of values that the schema knows, each with the words for what is right."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field


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
