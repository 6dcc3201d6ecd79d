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
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitals.classifier import ImageClassifier
from vitals.data.data_module import ImageData
from vitals.errors import UserError
from vitals.optim.factories import Schedule, momentum_schedule, optimizer_factory

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
        UserError: if its constructor refuses the configuration.
    """
    arguments = plain(config.network)
    channels_last = arguments.pop("channels_last", False)
    channels, size, _ = image_shape
    network: nn.Module = build(
        "network", instantiate, arguments, num_classes=num_classes, in_channels=channels, image_size=size
    )
    if channels_last:
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
    if config.optimizer._target_ == "torch.optim.LBFGS":
        arguments["batch_size"] = None  # the whole training set
    channels_last = config.network.get("channels_last", False)
    data = ImageData(**arguments, seed=config.seed or 0, channels_last=channels_last)
    data.setup()
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


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration in plain Python types, resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "one number"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
