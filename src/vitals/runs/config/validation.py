"""Check a configuration against its schema, and say in one sentence what is wrong with each value."""

import copy
import itertools
import json
import re
from typing import Any, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from vitals.errors import UserError, listed
from vitals.runs.config.other_names import did_you_mean_choice, did_you_mean_key
from vitals.runs.config.schema import Report, RunSchema

NAMELESS = " is missing: name the class that is to be built, as in _target_: package.Name"
"""What is said of a group without a target."""
Model = TypeVar("Model", bound=BaseModel)


def check_run(schema: type[RunSchema], config: DictConfig) -> None:
    """Check the configuration of a run: every value, then those that must fit together; `UserError` with one
    sentence for each wrong value, naming its key, the value and what is allowed."""
    if sentences := list(check(schema, config).clashes()):
        raise UserError("\n".join(sentences))


def check(model: type[Model], config: DictConfig) -> Model:
    """The values of `config` as its schema has them; `UserError` as `check_run`."""
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value: set {error.full_key}=<value>.") from None
    except OmegaConfBaseException as error:
        plain: Any = OmegaConf.to_container(config, resolve=False)
        for name, field in model.model_fields.items():  # to which something else refers
            if (keys := _keys_within(name, field)) and not isinstance(plain.get(name) or {}, dict):
                raise UserError(f"{name}={plain[name]} is not allowed: {keys}.") from None
        raise UserError(f"{error.full_key} cannot be resolved: {str(error).splitlines()[0]}.") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # A union reports once for each of its members: keep the first report of a key.
        problems = [(*_place(model, problem["loc"]), problem) for problem in reversed(error.errors())]
        sentences = {key: _sentence(key, field, problem, config) for key, field, problem in problems}
        nameless = tuple(key.removesuffix("_target_") for key, said in sentences.items() if NAMELESS in said)
        for key in [key for key in sentences if key.startswith(nameless)]:  # which nobody can know then
            if NAMELESS not in sentences[key]:
                del sentences[key]
        raise UserError("\n".join(reversed(sentences.values()))) from None


def check_report(config: DictConfig) -> None:
    """Check the configuration of `scripts/report.py`; `UserError` as `check`, and where not just one of `run`
    and `runs` is given."""
    report = check(Report, config)
    if (report.run is None) == (report.runs is None):
        said = "give either run or runs, not both" if report.run else "there is no run to report on"
        raise UserError(f"{said}: write run=<run folder>, or runs=[<run folder>,<another run folder>].")
    if report.watch and report.out is not None:
        raise UserError("--watch serves the page and writes none: leave out=… or --watch out.")
    if report.port is not None and not report.watch:
        raise UserError("port=… is that of a page that is served: add --watch, or leave it out.")


def _place(model: Any, location: tuple[int | str, ...]) -> tuple[str, FieldInfo | None]:
    """The dotted key of a place in the configuration, without the union members that pydantic adds to it, and
    its field, if it is one."""
    key, field = "", None
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif model is None:
            break
        else:
            fields = model.model_fields.items()
            field = next((field for own, field in fields if part in (own, field.alias)), None)
            key, model = f"{key}.{part}" if key else part, _inner_model(field)
    return key, field


def _inner_model(field: FieldInfo | None) -> Any:
    """The model that a field holds, or null in its place."""
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _sentence(key: str, field: FieldInfo | None, problem: Any, config: DictConfig) -> str:
    """One sentence on one wrong value: key, value, and what is allowed."""
    kind, value = problem["type"], problem["input"]
    if kind == "missing":
        return f"{key}{NAMELESS}" if key.endswith("_target_") else f"{key} is missing: give it a value."
    if kind == "extra_forbidden" or field is None:
        return f"{key} is not a key of this configuration; {_key_meant(key, value, config)}"
    shown = json.dumps(value) if value is None or isinstance(value, bool) else value
    if isinstance(value, str) and re.fullmatch(r"[\d.]+(e-?\d+)?|true|false|null", value):
        shown = repr(value)  # it is text: of ${oc.env:…}, or in quotes
    if kind == "value_error":  # a validator of ours says it better
        return f"{key}={shown}: {problem['ctx']['error']}"
    if kind == "literal_error" and not _allowed(field):
        choices = _choices(field.annotation)
        meant = did_you_mean_choice(str(value), choices)
        end = f": {meant}" if meant.startswith("did") else "."  # the others are named already
        return f"{key}={shown} is not one of {', '.join(choices)}{end}"
    if kind == "model_type" and (keys := _keys_within(key, field)):
        return f"{key}={shown} is not allowed: {keys}."
    allowed = _allowed(field) or problem["msg"].removeprefix("Input should be ")
    instead = ""
    if "whole number" in allowed and isinstance(value, float) and value.is_integer():
        instead = f": write {key}={value:.0f}"
    elif allowed.startswith("text") and isinstance(value, int | float):
        instead = f": write \"{key}='{shown}'\""
    elif isinstance(value, list) and "list" not in allowed and len(value) == 1:
        instead = f": write {key}={value[0]}"
    elif isinstance(value, list) and "list" not in allowed and value and "trainer" in config:
        instead = f", or with -m several: {key}={','.join(map(str, value))}"
    return f"{key}={shown} is not allowed: it must be {allowed}{instead}."


def _keys_within(key: str, field: FieldInfo) -> str:
    """That `key` has keys of its own, and which; empty where it has none."""
    names = (f"{key}.{name}" for name in getattr(_inner_model(field), "model_fields", ()))
    return f"it has keys of its own, {said}" if (said := listed(names)) else ""


def _choices(kind: Any) -> list[str]:
    """The words of a Literal, with `null` for that of one or None; 32 and "32" once."""
    parts = (["null"] if part is type(None) else _choices(part) or [str(part)] for part in get_args(kind))
    return list(dict.fromkeys(itertools.chain.from_iterable(parts)))


def _allowed(field: FieldInfo) -> str:
    """The words for what is right: of a field, or where null is right as well, of the type beside it."""
    if field.description or type(None) not in get_args(field.annotation):
        return field.description or ""
    beside = [part for part in get_args(field.annotation) if part is not type(None)]
    infos = (info for part in beside for info in getattr(part, "__metadata__", ()))
    words = [getattr(info, "description", None) for info in infos]
    return f"{next(filter(None, words))}, or null" if any(words) else ""


def _key_meant(key: str, value: Any, config: DictConfig) -> str:
    """A clause with what `key`, which nothing knows, probably stands for."""
    known = copy.deepcopy(config)
    OmegaConf.set_struct(known, False)
    parent, _, name = key.rpartition(".")
    (OmegaConf.select(known, parent) if parent else known).pop(name)
    return did_you_mean_key(key, None if isinstance(value, dict | list) else str(value), known, {})
