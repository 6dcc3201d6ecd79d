"""What a run needs from the machine it starts on: packages, a GPU, perhaps the network."""

from __future__ import annotations

import math
import os
import threading
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.config.schema import components

if TYPE_CHECKING:
    import lightning as L

MOST_A_CORE = 8
"""Processes that may train on one core of a CPU, slowly: more of them are a number that was mistaken."""


def require_packages(config: DictConfig) -> None:
    """Make sure that the packages are there that the configuration asks for, without importing any;
    `UserError` saying which is missing and what to do."""
    for name in sorted(set(components(config.logger)) & {"wandb", "mlflow", "trackio"}):
        require_package(f"logger={name}", name)
    if sampler := (config.get("search") or {}).get("sampler"):
        require_package(f"search={sampler}", "optuna")


def require_package(word: str, package: str) -> None:
    """Make sure that the package which a `word` of the command line needs is there; `UserError` if not."""
    if find_spec(package) is None:
        raise UserError(f"{word} needs the package {package}: pip install {package}")


def require_prerequisites(config: DictConfig) -> None:
    """Make sure that what the configuration asks for is there; torch is imported only to look for a GPU.
    `UserError` saying what is missing and what to do."""
    require_packages(config)
    _require_cores(config)
    accelerator, precision = config.trainer.accelerator, str(config.trainer.precision)
    asks, instead = f"trainer.accelerator={accelerator} asks for a GPU", "trainer=cpu or trainer=auto"
    if accelerator == "mps":
        asks, instead = "trainer.accelerator=mps asks for a Mac's GPU", "trainer=cpu"
    elif accelerator == "auto" and precision.startswith("16"):
        asks, instead = f"trainer.precision={precision} needs a GPU", "32-true or bf16-mixed"
    elif accelerator not in ("gpu", "cuda"):
        return
    from torch import cuda
    from torch.backends import mps

    kinds = {"mps": [mps], "auto": [cuda, mps]}.get(accelerator, [cuda])
    if not any(kind.is_available() for kind in kinds):
        raise UserError(f"{asks}, and torch sees none here: take {instead}.")


def _require_cores(config: DictConfig) -> None:
    """`UserError` where so many processes are to train on the CPU that the machine would stand still."""
    devices, cores = config.trainer.devices, os.cpu_count() or 1
    if not isinstance(devices, int) or devices <= MOST_A_CORE * cores:
        return
    from torch import cuda

    on_cpu = config.trainer.accelerator == "cpu" or not cuda.is_available()
    if on_cpu and config.trainer.accelerator in ("cpu", "auto"):
        raise UserError(
            f"trainer.devices={devices} asks for as many processes on the {cores} cores of this machine: "
            f"take {cores} or less."
        )


def require_batches(config: DictConfig, data: L.LightningDataModule) -> None:
    """Make sure that the trainer's shares and intervals are not below or beyond the batches that `data`, set
    up for training, have; loaders of unknown length, or several, are left to Lightning. `UserError` saying
    which value is wrong, of how many batches, and what would be right."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    trainer = config.trainer
    counts: dict[str, int] = {}
    for split in ("train", "val"):
        try:
            counts[split] = len(getattr(data, f"{split}_dataloader")())
        except (TypeError, NotImplementedError, MisconfigurationException):
            continue
        share = trainer.get(f"limit_{split}_batches")
        if isinstance(share, float) and counts[split]:
            if int(share * counts[split]) < 1:
                raise UserError(
                    f"trainer.limit_{split}_batches={share} leaves none of the {counts[split]} batches of "
                    f"{split}: take a share of at least {math.ceil(100 / counts[split]) / 100}."
                )
            counts[split] = int(share * counts[split])
        elif share is not None:
            counts[split] = min(share, counts[split])
    interval, batches = trainer.get("val_check_interval"), counts.get("train")
    within = isinstance(interval, int) and trainer.get("check_val_every_n_epoch", 1) is not None
    if within and batches is not None and interval > batches and trainer.limit_val_batches != 0:
        raise UserError(
            f"trainer.val_check_interval={interval} is more than the {batches} training batches of an epoch: "
            f"take {batches} or less, or trainer.check_val_every_n_epoch=null, which counts across epochs."
        )


def answers(url: str) -> bool:
    """Whether `url` answers in 6 seconds. In a thread, for a name look-up has no time limit of its own."""
    reached = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        with suppress(OSError), urllib.request.urlopen(request, timeout=6):
            reached.set()

    threading.Thread(target=ask, daemon=True).start()
    return reached.wait(6)
