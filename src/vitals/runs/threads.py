"""How many threads torch has on the CPU: they share the terms of a sum, and other parts round otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf


def set_threads(config: DictConfig) -> None:
    """Give torch, in each process of the run, as many threads as `config.threads` says.

    Where that is null, torch's own number is written into `config`: one for each core that the process may
    use, or as many as OMP_NUM_THREADS says; several processes share the cores.
    """
    devices = config.trainer.devices
    if isinstance(devices, str) or devices == -1:  # auto
        processes = max(1, torch.cuda.device_count())
    else:
        processes = len(devices) if isinstance(devices, Sequence) else devices
    if config.get("threads") is None:
        given = "OMP_NUM_THREADS" in os.environ
        number = torch.get_num_threads() if given else max(1, torch.get_num_threads() // processes)
        OmegaConf.update(config, "threads", number, force_add=True)
    torch.set_num_threads(config.threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)  # or Lightning would choose another number
