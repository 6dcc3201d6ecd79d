"""Check a configuration against its schema, and say in one sentence what is wrong with each value."""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from project.clashes import clashes
from vitals.errors import UserError, did_you_mean
from vitals.runs.config.schema import Ensemble, Evaluation, Experiment, Report

Model = TypeVar("Model", bound=BaseModel)


def check_experiment(config: DictConfig) -> None:
    """Check the configuration of `scripts/train.py`: every value, then those that must fit together.

    Raises:
        UserError: with one sentence for each wrong value, naming its key, the value and what is allowed.
    """
    experiment = _validated(Experiment, config)
    if sentences := list(clashes(experiment)):
        raise UserError("\n".join(sentences))


def check_evaluation(config: DictConfig) -> None:
    """Check the configuration of `scripts/evaluate.py`.

    Raises:
        UserError: as `check_experiment`.
    """
    _validated(Evaluation, config)


def check_ensemble(config: DictConfig) -> None:
    """Check the configuration of `scripts/ensemble.py`.

    Raises:
        UserError: as `check_experiment`.
    """
    _validated(Ensemble, config)


def check_report(config: DictConfig) -> None:
    """Check the configuration of `scripts/report.py`.

    Raises:
        UserError: as `check_experiment`, and where not just one of `run` and `runs` is given.
    """
    report = _validated(Report, config)
    if (report.run is None) == (report.runs is None):
        said = "give either run or runs, not both" if report.run else "there is no run to report on"
        raise UserError(f"{said}: write run=<run folder>, or runs=[<run folder>,<another run folder>].")


def _validated(model: type[Model], config: DictConfig) -> Model:
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value: set {error.full_key}=<value>.") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key} cannot be resolved: {str(error).splitlines()[0]}.") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # A union reports once for each of its members: keep the first report of a key.
        sentences = {
            _key(model, problem["loc"]): _sentence(model, problem) for problem in reversed(error.errors())
        }
        raise UserError("\n".join(reversed(sentences.values()))) from None


def _key(model: Any, location: tuple[int | str, ...]) -> str:
    """The dotted key of a place in the configuration, without the union members pydantic adds to it."""
    parts: list[str] = []
    for part in location:
        if isinstance(part, int):
            parts[-1] += f"[{part}]"
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        parts.append(part)
        field = model.model_fields.get(part)
        model = field.annotation if field else None
    return ".".join(parts)


def _field(model: Any, key: str) -> FieldInfo | None:
    field = None
    for part in key.split("."):
        field = model.model_fields.get(part.partition("[")[0])
        model = field.annotation if field else None
    return field


def _sentence(model: Any, problem: Any) -> str:
    """One sentence on one wrong value: key, value, and what is allowed."""
    key, value = _key(model, problem["loc"]), problem["input"]
    if problem["type"] == "missing":
        return f"{key} is missing: give it a value."
    field = _field(model, key)
    if problem["type"] == "extra_forbidden" or field is None:
        return f"{key} is not a key of this configuration; {_nearest_key(model, key)}"
    shown = json.dumps(value) if value is None or isinstance(value, bool) else value
    choices = list(dict.fromkeys(str(choice) for choice in get_args(field.annotation)))  # 32 and "32"
    if problem["type"] == "literal_error" and not field.description:
        return f"{key}={shown} is not one of {', '.join(choices)}: {did_you_mean(str(value), choices)}"
    return f"{key}={shown} is not allowed: it must be {field.description or problem['msg']}."


def _nearest_key(model: Any, key: str) -> str:
    parent, _, name = key.rpartition(".")
    for part in parent.split(".") if parent else []:
        model = model.model_fields[part].annotation
    return did_you_mean(name, model.model_fields)
