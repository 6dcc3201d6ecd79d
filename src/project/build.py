"""From the configuration to what trains: `prepare` looks for mistakes, `build` makes the module and its data.

A class of yours is built as ours are: its constructor gets the keys of its config group, and of what is
`OFFERED` what it asks for by the name of a parameter; for a network that is what the data say in `classes`
and `image_shape`, and `optimizer` is a function from a network. What nothing asks for needs no group.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from project.optim.optimizers import Schedule, momentum_schedule, optimizer_factory
from project.schema import IMAGE_DATA, LBFGS_LIMIT
from vitals.errors import UserError, one_line
from vitals.metric import Metric
from vitals.runs.instantiate import asked_for, attempt, build_from, plain, require_target, said_by
from vitals.runs.memory import require_memory

WHITENED = 2000
"""Training images of whose patches `network.whiten` takes the covariance."""
OF_ANY_NETWORK = ("channels_last", "whiten")
"""Keys of a network that are no arguments of its constructor."""
OFFERED = {
    "data": ("seed", "channels_last"),
    "network": ("num_classes", "in_channels", "image_size"),
    "module": ("network", "optimizer", "schedule", "momentum_schedule", "metric", "num_classes"),
}


def prepare(config: DictConfig) -> None:
    """Make sure that the images are there or can be downloaded, and build on trial what needs no data;
    `UserError` for the first thing that is wrong."""
    if config.data._target_ == IMAGE_DATA:
        from project.data.sources import require_images  # here: a project need not have these data

        require_images(config.data.source, config.data.root)
    for make in _optimization(config).values():
        make()
    for group in ("data", "module", *(["network"] if "network" in config else [])):
        require_target(group, config, OF_ANY_NETWORK if group == "network" else (), OFFERED[group])


def read_data(config: DictConfig) -> L.LightningDataModule | None:
    """Read the images, and build on trial the network for them; say what of a folder was passed over.
    `UserError` if they cannot be read, or memory is too small for the network."""
    if config.data._target_ != IMAGE_DATA:
        return None
    data = build_data(config)
    data.setup()
    with torch.device("meta"):
        network = build_network(config, len(data.classes), data.image_shape)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    require_memory(
        4 * 4 * parameters,  # as float32: itself, its gradient, its momentum and its average
        f"training {type(network).__name__} with {parameters:,} parameters",
        "set a smaller data.image_size or network",
    )
    if data.note:
        print(data.note)
    return data


def build(config: DictConfig) -> tuple[L.LightningModule, L.LightningDataModule]:
    """The configured module for the configured data; `UserError` if a constructor refuses its configuration,
    the images cannot be read, are too many for the optimizer, or do not fit the network."""
    data = build_data(config)
    return build_module(config, data), data


def build_data(config: DictConfig) -> Any:
    """The configured data; ours are read and split."""
    arguments = plain(config.data)
    lbfgs = _is_lbfgs(config) and config.data._target_ == IMAGE_DATA
    if lbfgs:
        arguments["batch_size"] = None  # the whole training set
    offered = {"seed": lambda: config.seed or 0, "channels_last": lambda: _channels_last(config)}
    data = build_from("data", arguments, offered)
    if lbfgs:
        data.setup()
        if len(data.train) > LBFGS_LIMIT:
            held = f"{config.data.root} has {len(data.train):,} training images"
            raise UserError(f"optimizer=lbfgs takes all, and {held}: set data.limit={LBFGS_LIMIT} or less.")
    return data


def build_module(config: DictConfig, data: Any) -> L.LightningModule:
    """The configured module, with a network for the images or other samples of `data` if it asks for one."""

    @cache
    def known() -> Any:
        attempt("data", data.prepare_data)
        attempt("data", data.setup, "fit")
        return data

    offered = {
        **({"network": lambda: _network_for(config, known)} if "network" in config else {}),
        "num_classes": lambda: len(said_by(known(), "classes", "module")),
        "metric": lambda: Metric.of(config),
        **_optimization(config),
    }
    return build_from("module", plain(config.module), offered)


def build_network(config: DictConfig, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The configured network for images of C×H×W; `UserError` if its constructor refuses the configuration,
    or the images, or those of another size of `data.sizes`, do not fit it."""
    channels, height, width = image_shape
    network = _network(config, num_classes=num_classes, in_channels=channels, image_size=height)
    training = network.training
    other = " to more" if height == width else f"={min(height, width)}, say"
    tried = {(height, width): f"data.image_size{other}"}
    for size in config.data.get("sizes") or ():
        tried[size, max(1, round(width * size / height))] = f"data.sizes=[{height}], or null"
    for pixels, instead in tried.items():
        try:
            with torch.no_grad():  # and uncompiled: a network is compiled where it is called
                network.eval().forward(torch.zeros(1, channels, *pixels))
        except RuntimeError as error:
            raise UserError(
                f"network: {type(network).__name__} does not take images of {pixels[1]}×{pixels[0]} pixels "
                f"({one_line(error)}): set {instead}, or take another network."
            ) from None
    return network.train(training)


def _network_for(config: DictConfig, known: Any) -> nn.Module:
    """The network for data that say what it asks for, or for any other whose YAML says all that it needs."""
    asked = asked_for(plain(config.network), OFFERED["network"])
    facts = {"classes": "num_classes" in asked, "image_shape": {"in_channels", "image_size"} & {*asked}}
    classes, shape = (said_by(known(), fact, "network") if facts[fact] else None for fact in facts)
    if asked and (shape := shape or getattr(known(), "image_shape", None)):
        network = build_network(config, len(classes or ()), shape)
    else:
        network = _network(config, num_classes=len(classes or ()))
    if config.network.get("whiten", False):
        if not hasattr(known(), "sample"):
            raise UserError("network.whiten=true needs data with a function sample(count): set it to false.")
        from project.networks.initialization import whiten  # here: a project need not have our networks

        attempt("network", whiten, network, known().sample(WHITENED))
    return network


def _network(config: DictConfig, **facts: int) -> nn.Module:
    arguments = plain(config.network)
    for key in OF_ANY_NETWORK:
        arguments.pop(key, None)
    offered = {name: partial(int, value) for name, value in facts.items()}
    network: nn.Module = build_from("network", arguments, offered)
    if _channels_last(config):
        network = network.to(memory_format=torch.channels_last)
    if config.compile:
        network.compile(mode=None if config.compile is True else config.compile)
    return network


def _optimization(config: DictConfig) -> dict[str, Callable[[], Any]]:
    """What makes each part of the optimization that a module may ask for."""
    made_by = {
        "optimizer": optimizer_factory,
        "schedule": Schedule.from_config,
        "momentum_schedule": momentum_schedule,
    }
    groups = {group: make for group, make in made_by.items() if group in config}
    return {group: partial(attempt, group, make, plain(config[group])) for group, make in groups.items()}


def _is_lbfgs(config: DictConfig) -> bool:
    return bool(OmegaConf.select(config, "optimizer._target_") == "torch.optim.LBFGS")


def _channels_last(config: DictConfig) -> bool:
    """The configured memory format; LBFGS can flatten contiguous parameters only."""
    return bool(OmegaConf.select(config, "network.channels_last")) and not _is_lbfgs(config)
