"""From a configuration to the objects it names."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from project.clashes import LBFGS_LIMIT
from project.data.data_module import ImageData
from project.module import ImageClassifier
from project.optim.optimizers import Schedule, momentum_schedule, optimizer_factory
from vitals.averaging.weight_average import WeightAverage
from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.callback import Diagnosis
from vitals.errors import UserError

T = TypeVar("T")


def build(where: str, make: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """`make(*arguments, **keywords)`, for the config group `where`.

    Raises:
        UserError: if the constructor refuses its arguments, with what it said.
    """
    try:
        return make(*arguments, **keywords)
    except InstantiationException as error:
        raise UserError(f"{where}: {_one_line(error.__cause__ or error)}") from error
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"{where}: {_one_line(error)}") from error


def build_network(config: DictConfig, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The configured network for images of C×H×W.

    Raises:
        UserError: if its constructor refuses the configuration, or images that are not square do not fit it.
    """
    arguments = plain(config.network)
    arguments.pop("channels_last", None)
    channels, height, width = image_shape
    network: nn.Module = build(
        "network", instantiate, arguments, num_classes=num_classes, in_channels=channels, image_size=height
    )
    if height != width:
        _require_fit(network, image_shape)
    if _channels_last(config):
        network = network.to(memory_format=torch.channels_last)
    if config.compile:
        network.compile()
    return network


def build_data(config: DictConfig) -> ImageData:
    """The configured images, read and split.

    Raises:
        UserError: if they cannot be read, or are too many for the optimizer.
    """
    arguments = plain(config.data)
    if _is_lbfgs(config):
        arguments["batch_size"] = None  # the whole training set
    data = ImageData(**arguments, seed=config.seed or 0, channels_last=_channels_last(config))
    data.setup()
    if _is_lbfgs(config) and len(data.train) > LBFGS_LIMIT:
        raise UserError(
            f"optimizer=lbfgs takes the whole training set as one batch, and {config.data.root} has "
            f"{len(data.train):,} training images: set data.limit={LBFGS_LIMIT} or less."
        )
    return data


def build_classifier(config: DictConfig, data: ImageData) -> ImageClassifier:
    """The configured network with its loss, optimizer and schedule, for the images of `data`."""
    return ImageClassifier(
        build_network(config, len(data.classes), data.image_shape),
        len(data.classes),
        build("optimizer", optimizer_factory, plain(config.optimizer)),
        build("schedule", Schedule.from_config, plain(config.schedule)),
        momentum_schedule(plain(config.momentum_schedule)),
        config.label_smoothing,
    )


def build_trainer(config: DictConfig, **further: Any) -> L.Trainer:
    """The configured trainer.

    Raises:
        UserError: if Lightning refuses its arguments.
    """
    return build(
        "trainer",
        L.Trainer,
        **plain(config.trainer) | further,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the batches are shared out by ImageData
    )


def build_callbacks(config: DictConfig) -> list[L.Callback]:
    """The configured callbacks, in the order of the configuration."""
    return [build(f"callbacks.{name}", instantiate, entry) for name, entry in config.callbacks.items()]


def build_average(config: DictConfig) -> list[WeightAverage]:
    """The configured averaging of weights; nothing where `average.kind` is null."""
    options = plain(config.average)
    return [build("average", WeightAverage, **options)] if options["kind"] else []


def build_checks(config: DictConfig, **further: Any) -> list[SanityChecks]:
    """The configured checks before learning; none where `checks.which` is empty."""
    options = plain(config.checks) | further
    which = options.pop("which")
    return [build("checks", SanityChecks, which, **options)] if which else []


def build_diagnosis(config: DictConfig) -> Diagnosis:
    """The keeper of the run's record, who says what is wrong."""
    return build(
        "diagnosis",
        Diagnosis,
        config.diagnosis.stop_on,
        config.diagnosis.probe,
        report=False,  # made when the run has been tested
    )


def build_loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """The configured loggers, writing into `folder`."""
    return [
        build(f"logger.{name}", instantiate, entry, save_dir=str(folder))
        for name, entry in config.logger.items()
    ]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, read without running any code that may be in it.

    Raises:
        UserError: if the file is damaged or no checkpoint.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _ = checkpoint["state_dict"], checkpoint["epoch"], checkpoint["global_step"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged or no checkpoint of a run: {_one_line(error)}") from None
    return checkpoint


def require_same_network(classifier: nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    """Make sure that the weights in `checkpoint`, read from `path`, fit `classifier`.

    Raises:
        UserError: naming the first parameter that differs.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in classifier.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path} holds the weights of another network: {name} is "
                f"{_shape(found.get(name))} there and {_shape(expected.get(name))} here."
            )


def quiet_lightning() -> None:
    """Leave Lightning's messages to the root logger: they go to `train.log`, not to the terminal."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.15
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration in plain Python types, resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _require_fit(network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Make sure that `network` takes images of this shape, which its `image_size` cannot tell it."""
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *image_shape))
    except RuntimeError:
        _, height, width = image_shape
        raise UserError(
            f"{type(network).__name__} takes square images only, and these are {width}×{height} pixels: set "
            f"data.image_size={min(height, width)}, say, to resize them, or take network=convnet."
        ) from None
    network.train(training)


def _is_lbfgs(config: DictConfig) -> bool:
    return bool(config.optimizer._target_ == "torch.optim.LBFGS")


def _channels_last(config: DictConfig) -> bool:
    """The configured memory format; LBFGS can flatten contiguous parameters only."""
    return config.network.get("channels_last", False) and not _is_lbfgs(config)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "one number"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
