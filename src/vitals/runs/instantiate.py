"""From a configuration to the objects it names."""

import inspect
import logging
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile, is_zipfile

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitals.averaging.weight_average import WeightAverage
from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.callback import Diagnosis
from vitals.errors import UserError, did_you_mean, failed_at, one_line, reason_of
from vitals.metric import bare_name
from vitals.on_nonfinite import OnNonFinite
from vitals.runs.callbacks.tensorboard import RunTensorBoard
from vitals.runs.config.schema import components
from vitals.runs.run_folder import RunFolder
from vitals.writers.groups import in_groups

T = TypeVar("T")


class Unprofiled(PassThroughProfiler):
    """Times nothing, and makes no object for it: Lightning asks it around every hook of every callback."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        return self.nothing


PARTS = ("network", "optimizer", "schedule", "momentum_schedule")
"""Config groups of which a module may ask for what is made."""
FLAGS_OF_A_TRIAL = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
"""Of a trainer that leaves nothing behind."""
REFUSALS: tuple[type[Exception], ...] = (TypeError, ValueError, RuntimeError, ArithmeticError, OSError)
REFUSALS += (AssertionError, ImportError, AttributeError, MisconfigurationException)
"""By which constructors refuse their arguments."""
MISTAKES_IN_CODE = (ImportError, AttributeError, RecursionError)
"""Of these, what in somebody's own code is a mistake of the code, of which they need the traceback."""
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def attempt(where: str, make: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """`make(*arguments, **keywords)`, for the config group `where`; `UserError` if the constructor refuses
    its arguments, with what it said. A mistake in somebody's own code keeps its traceback."""
    try:
        return make(*arguments, **keywords)
    except Exception as error:
        cause = (isinstance(error, InstantiationException) and error.__cause__) or error
        if (problem := refusal(where, cause, make)) is None:
            raise cause from None
        raise problem from error


def refusal(where: str, error: BaseException, make: Any = None) -> UserError | None:
    """What is said of an `error` that `make` has raised for the config group `where`, if by it a value was
    refused, with the line of somebody's own code that did so; None of a mistake in the code."""
    if isinstance(error, UserError):
        return error
    own, said = failed_at(error), one_line(error)
    if isinstance(error, KeyError):  # of a table of what there is: refused, where a value is the key
        given = getattr(make, "keywords", {}).values()
        refused = any(isinstance(value, str | int) and error.args == (value,) for value in given)
        said = f"there is no {said}"
    else:
        refused = isinstance(error, REFUSALS) and not (own and isinstance(error, MISTAKES_IN_CODE))
    if not refused:
        return None
    if own:
        target = getattr(make, "func", None)
        name = f"{target.__module__}.{target.__qualname__}, " if isinstance(target, type) else ""
        kind = type(error).__name__
        said = f"{said or kind} ({name}{kind} at {own}; HYDRA_FULL_ERROR=1 shows the traceback)"
    return UserError(f"{where}: {said}")


def made(where: str, config: Any, **further: Any) -> Any:
    """What `config._target_` makes of its keys and `further` arguments, for the config group `where`;
    `UserError` as `attempt`."""
    # Bound first and called then: Hydra would turn dataclasses among its arguments into dictionaries.
    bound = attempt(where, instantiate, config, _convert_="all", _partial_=True)
    return attempt(where, bound, **further)


def bound(where: str, config: Mapping[str, Any], *positional: Any) -> partial[Any]:
    """What `config._target_` names, its other keys bound as arguments; `UserError` if there is no such thing,
    `TypeError` if it does not take one of the arguments after those that will be `positional`."""
    arguments = dict(config)
    target = locate(where, arguments.pop("_target_"))
    inspect.signature(target).bind(*positional, **arguments)
    return partial(target, **arguments)


def locate(where: str, name: str) -> Any:
    """What the dotted `name` stands for, in the config group `where`; `UserError` if there is no such
    thing."""
    if not isinstance(name, str):
        value = "null" if name is None else name
        raise UserError(f"{where}._target_={value} is not allowed: it must be a dotted name, package.Name.")
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:  # of a module of somebody's own, which is imported here
        said = reason_of(error) if failed_at(error) else one_line(error)
        raise UserError(f"{where}: {name} cannot be found: {said}") from error
    if not callable(found):
        raise UserError(f"{where}: {name} is no class or function: it must be a dotted name, package.Name.")
    return found


def build_from(where: str, config: Mapping[str, Any], offered: Mapping[str, Callable[[], Any]]) -> Any:
    """The object that `config._target_` names, from its own keys and what it asks for by name: `offered` is
    made only where the constructor has a parameter of that name. `UserError`, with the config group `where`,
    if the target cannot be found, or refuses its arguments."""
    wanted = {name: offered[name]() for name in asked_for(config, offered)}
    return made(where, config, **wanted)


def asked_for(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Those of `names` that are parameters of `config._target_` and no keys of `config`."""
    target = locate("_target_", config["_target_"])
    parameters = inspect.signature(target).parameters
    return [name for name in names if name in parameters and name not in config]


def require_target(where: str, whole: DictConfig, apart: Sequence[str], offered: Sequence[str]) -> None:
    """Make sure that the `_target_` of the group `where` of the `whole` configuration can be imported, has a
    parameter for each key of the group that is not `apart`, and a value for each parameter: its own, a key,
    or what is `offered`, if that is no group, or one that there is. `UserError` naming the target, or the key
    with the nearest parameter, or what it asks for."""
    config = whole[where]
    target = locate(where, config._target_)
    parameters = inspect.signature(target).parameters
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not named or parameter.default is not parameter.empty or name in config or "_args_" in config:
            continue
        if name in PARTS and name in offered and name not in whole:
            raise UserError(
                f"{where}: {config._target_} asks for {name}, and no such group is chosen: add one to the "
                f"defaults of train.yaml, as in - {name}: <choice>."
            )
        if name not in offered:
            raise UserError(
                f"{where}: {config._target_} needs {name}, which has no value: set {where}.{name}=<value>, "
                f"or put it into its YAML."
            )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in map(str, config):
        if not key.startswith("_") and key not in (*parameters, *apart):
            raise UserError(
                f"{where}.{key}: {config._target_} has no argument {key}; {did_you_mean(key, parameters)}"
            )


def said_by(data: Any, fact: str, group: str) -> Any:
    """What the data say of themselves; `UserError` where they do not, and the `group` asks for it."""
    if not hasattr(data, fact):
        wanted = {"classes": "a list of names", "image_shape": "(channels, height, width)"}[fact]
        raise UserError(
            f"{group} asks for what {type(data).__name__} does not say: let it have {fact}, {wanted}, after "
            f'setup("fit"), or set the values in the YAML of the {group}.'
        )
    return getattr(data, fact)


def build_trainer(config: DictConfig, **further: Any) -> L.Trainer:
    """The configured trainer; what a profiler finds goes to files in its `default_root_dir`. `UserError` if
    Lightning refuses its arguments."""
    options = {"enable_model_summary": False, "num_sanity_val_steps": 0} | plain(config.trainer)
    folder, profiler = further.get("default_root_dir"), PROFILERS.get(str(options.get("profiler")))
    if folder and profiler:
        options["profiler"] = profiler(dirpath=folder, filename="profile")
    trainer: L.Trainer = made("trainer", options, **further)
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = Unprofiled()  # type: ignore[attr-defined]
    # Where algorithms are to be deterministic, torch writes NaN over all memory that it takes, for programs
    # that read what they have not written: 3% of a training, and no number of a sound one differs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if isinstance(getattr(trainer.precision_plugin, "scaler", None), torch.amp.GradScaler):
        # It leaves out the first steps, until the gradients are finite; the schedule does not wait for them.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    return trainer


def build_callbacks(config: DictConfig) -> list[L.Callback]:
    """The configured callbacks, in their order, without those that the trainer is told to do without."""
    flags = {"enable_checkpointing": Checkpoint, "enable_progress_bar": ProgressBar}
    left_out = tuple(kind for flag, kind in flags.items() if config.trainer.get(flag) is False)
    callbacks = [made(f"callbacks.{name}", entry) for name, entry in components(config.callbacks).items()]
    return [callback for callback in callbacks if not isinstance(callback, left_out)]


def build_average(config: DictConfig) -> list[WeightAverage]:
    """The configured averaging of weights; nothing with `average=none`."""
    return [made("average", config.average)] if config.average._target_ else []


def build_checks(config: DictConfig, **further: Any) -> list[SanityChecks]:
    """The configured checks before learning; nothing with `checks=none` or an empty `checks.which`."""
    if not (config.checks._target_ and config.checks.which):
        return []
    options = plain(config.checks) | further
    options["checks"] = options.pop("which")
    return [made("checks", options)]


def build_on_nonfinite(config: DictConfig) -> list[OnNonFinite]:
    """What acts where a number is no longer finite; nothing with `on_nonfinite=null`."""
    action = config.get("on_nonfinite", "stop")
    return [] if action is None else [OnNonFinite(action)]


def build_diagnosis(config: DictConfig) -> Diagnosis:
    """The keeper of the run's record, who says what is wrong."""
    chosen = config.diagnosis
    rules = [locate("diagnosis.rules", rule) for rule in chosen.rules]
    # The report is made, and the findings are said, when the run has been tested.
    later = {"report": False, "summary": False}
    return attempt("diagnosis", Diagnosis, chosen.stop_on, chosen.probe, rules=rules, **later)


def build_loggers(config: DictConfig, folder: RunFolder) -> list[Logger]:
    """The configured loggers, which know the configuration.

    Those that ask for it by name are given `save_dir`, the run's folder; `run_name`, that folder's name;
    `group`, the name of the sweep's folder, or None; and `resumed_as`, their `version` in the run that is
    resumed, or None.
    """
    group = folder.sweep
    earlier = (folder.read_status().get("loggers") or {}) if config.resume else {}
    loggers: dict[str, Logger] = {}
    for name, entry in components(config.logger).items():
        offered: dict[str, Any] = {"save_dir": str(folder.path), "run_name": folder.path.name}
        offered |= {"group": group.name if group else None, "resumed_as": earlier.get(name)}
        where = f"logger.{name}"
        loggers[name] = made(where, entry, **{key: offered[key] for key in asked_for(entry, offered)})
        if not isinstance(loggers[name], RunTensorBoard):
            try:
                loggers[name].log_hyperparams(plain(config))
            except Exception as error:  # of its own kind: no account, no server, no permission
                raise UserError(f"logger={name} cannot begin: {one_line(error)}") from error
    resumable = [name for name in loggers if asked_for(config.logger[name], ["resumed_as"])]
    known = {name: loggers[name].version for name in resumable}
    if known and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        folder.write_status("running", loggers=known)
    return list(loggers.values())


def log_results(loggers: Sequence[Logger], config: DictConfig, metrics: dict[str, float], step: int) -> None:
    """Give every logger the final metrics, those of the metric that judges the run first, and TensorBoard the
    configuration beside them."""
    judging = bare_name(config.metric.name)
    first = sorted(metrics, key=lambda name: bare_name(name.partition("/")[2]) != judging)
    metrics = {in_groups(name): metrics[name] for name in first}
    for logger in loggers:
        if isinstance(logger, RunTensorBoard):
            logger.log_results(plain(config), metrics)
        else:
            logger.log_metrics(metrics, step)
            logger.save()


LARGEST = 1e9
"""Of the rates of an optimizer: beyond it they are no training's."""
NEEDED = {"state_dict": dict, "epoch": int, "global_step": int}
STATES = {"loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
"""Which a checkpoint of weights alone lacks."""


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """The content of a checkpoint, read without running any code that may be in it; `UserError` if the file
    is damaged or no checkpoint."""
    try:
        if is_zipfile(path):  # as torch writes it, uncompressed
            with ZipFile(path) as archive:
                unpacked = sum(part.file_size for part in archive.infolist())
            if unpacked > os.path.getsize(path):
                raise ValueError(f"it unpacks to {unpacked:,} bytes")
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        parts = {**NEEDED, **{name: kind for name, kind in STATES.items() if name in checkpoint}}
        of_kinds = [(name, checkpoint[name], kind) for name, kind in parts.items()]
        of_kinds += [(name, weight, torch.Tensor) for name, weight in checkpoint["state_dict"].items()]
        of_kinds += [(name, state, dict) for name, state in checkpoint.get("callbacks", {}).items()]
        for name, part, kind in of_kinds:
            if not isinstance(part, kind):
                raise TypeError(f"{name} in it is no {kind.__name__.lower()}")
        states = checkpoint.get("optimizer_states", ())
        for group in (group for state in states for group in state.get("param_groups", ())):
            for key in ("lr", "momentum", "weight_decay"):
                value = group.get(key, 0.0)
                if isinstance(value, str) or (isinstance(value, float) and not abs(value) < LARGEST):
                    raise ValueError(f"its optimizer has {key}={value}")
    except Exception as error:  # whatever a damaged file makes of its reader
        said = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise UserError(f"{path} is damaged or no checkpoint of a run: {said}") from None
    return checkpoint


def require_same_network(module: nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    """Make sure that the weights in `checkpoint`, read from `path`, fit `module`; `UserError` naming the
    first parameter that differs."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path} holds the weights of another network: {name} is "
                f"{_shape(found.get(name))} there and {_shape(expected.get(name))} here."
            )


def quiet_lightning() -> None:
    """Leave Lightning's messages to the root logger: of a run they go to `train.log`, not to the terminal.
    Where both of its packages have been imported, they come by the names of the last."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # of CUDA_HOME without a GPU
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.15
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration in plain Python types, resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "one number"
