"""From the configuration to what trains: `prepare` looks for mistakes, `build` makes the module and its data.

A class of yours is built as ours are. Its constructor gets the keys of its config group, and what else it
asks for by the name of a parameter:

| of the group | may ask for |
| --- | --- |
| `data` | `seed`, `channels_last` |
| `network` | `num_classes`, `in_channels`, `image_size`: of the data, from its `classes` and `image_shape` |
| `module` | `network`, `optimizer`, `schedule`, `momentum_schedule`, `metric`, `num_classes` |

`optimizer` is a function from a network to its optimizer, `schedule` a `Schedule`. Torch is imported where it
is needed, for a wrong word is to be answered at once.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from project.schema import IMAGE_DATA, LBFGS_LIMIT, Experiment
from vitals.errors import UserError

if TYPE_CHECKING:
    import lightning as L
    from torch import nn

configs = Path(__file__).parents[2] / "configs"
schema = Experiment


def prepare(config: DictConfig) -> None:
    """Make sure that the images are there, and build on trial what needs no data.

    Raises:
        UserError: for the first thing that is wrong.
    """
    ours = config.data._target_ == IMAGE_DATA
    if ours:
        from project.data.locate import require_images

        require_images(config.data.source, config.data.root)
    import torch

    from vitals.runs.instantiate import require_target

    _optimization(config)
    for group in ("data", "module", "network"):
        require_target(group, config[group])
    if ours and (config.data.source != "image_folder" or config.data.image_size):
        size = config.data.image_size or 32
        with torch.device("meta"):
            build_network(config, num_classes=10, image_shape=(3, size, size))


def build(config: DictConfig) -> tuple[L.LightningModule, L.LightningDataModule]:
    """The configured module for the configured data.

    Raises:
        UserError: if a constructor refuses its configuration, the images cannot be read, are too many for the
            optimizer, or do not fit the network.
    """
    data = build_data(config)
    return build_module(config, data), data


def build_data(config: DictConfig) -> Any:
    """The configured data; ours are read and split."""
    from vitals.runs.instantiate import build_from, plain

    arguments = plain(config.data)
    lbfgs = _is_lbfgs(config) and config.data._target_ == IMAGE_DATA
    if lbfgs:
        arguments["batch_size"] = None  # the whole training set
    offered = {"seed": lambda: config.seed or 0, "channels_last": lambda: _channels_last(config)}
    data = build_from("data", arguments, offered)
    if lbfgs:
        data.setup()
        if len(data.train) > LBFGS_LIMIT:
            raise UserError(
                f"optimizer=lbfgs takes the whole training set as one batch, and {config.data.root} has "
                f"{len(data.train):,} training images: set data.limit={LBFGS_LIMIT} or less."
            )
    return data


def build_module(config: DictConfig, data: Any) -> L.LightningModule:
    """The configured module, with a network for the images or other samples of `data` if it asks for one."""
    from vitals.runs.instantiate import build_from, plain
    from vitals.runs.metric import Metric

    optimizer, schedule, momentum_schedule = _optimization(config)

    @cache
    def known() -> Any:
        data.prepare_data()
        data.setup("fit")
        return data

    offered = {
        "network": lambda: _network_for(config, known),
        "num_classes": lambda: len(known().classes),
        "optimizer": lambda: optimizer,
        "schedule": lambda: schedule,
        "momentum_schedule": lambda: momentum_schedule,
        "metric": lambda: Metric.of(config),
    }
    module: L.LightningModule = build_from("module", plain(config.module), offered)
    return module


def build_network(config: DictConfig, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The configured network for images of C×H×W.

    Raises:
        UserError: if its constructor refuses the configuration, or images that are not square do not fit it.
    """
    channels, height, width = image_shape
    network = _network(config, num_classes=num_classes, in_channels=channels, image_size=height)
    if height != width:
        _require_fit(network, image_shape)
    return network


def _network_for(config: DictConfig, known: Any) -> nn.Module:
    """The network for data that say what they are, or for any other whose YAML says all that it needs."""
    from vitals.runs.instantiate import asked_for, plain

    if asked_for(plain(config.network), ("num_classes", "in_channels", "image_size")):
        return build_network(config, len(known().classes), known().image_shape)
    return _network(config)


def _network(config: DictConfig, **facts: int) -> nn.Module:
    import torch

    from vitals.runs.instantiate import build_from, plain

    arguments = plain(config.network)
    arguments.pop("channels_last", None)
    offered = {name: partial(int, value) for name, value in facts.items()}
    network: nn.Module = build_from("network", arguments, offered)
    if _channels_last(config):
        network = network.to(memory_format=torch.channels_last)
    if config.compile:
        network.compile()
    return network


def _optimization(config: DictConfig) -> tuple[Any, Any, Any]:
    """How to make the optimizer, its schedule, and that of the momentum."""
    from project.optim.optimizers import Schedule, momentum_schedule, optimizer_factory
    from vitals.runs.instantiate import attempt, plain

    return (
        attempt("optimizer", optimizer_factory, plain(config.optimizer)),
        attempt("schedule", Schedule.from_config, plain(config.schedule)),
        attempt("momentum_schedule", momentum_schedule, plain(config.momentum_schedule)),
    )


def _require_fit(network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Make sure that `network` takes images of this shape, which its `image_size` cannot tell it."""
    import torch

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
    return bool(config.network.get("channels_last", False)) and not _is_lbfgs(config)
