"""An accelerator that every machine has: the host's memory under another device's name (see device.cpp)."""

import contextlib
import types
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.cpp_extension import load

NAME = "hostdevice"


class Counts(NamedTuple):
    """So far, in this process."""

    waits: int
    """Of the host for a number or a size."""
    to_host: int
    to_device: int


def counts() -> Counts:
    return Counts(*torch.ops.host_device.counted())


def make_device() -> torch.device:
    """Build the device, which takes half a minute where it was not built before, and register it for good."""
    load(
        "host_device", [str(Path(__file__).with_suffix(".cpp"))], extra_cflags=["-O0"], is_python_module=False
    )
    torch.utils.rename_privateuse1_backend(NAME)
    module: Any = types.ModuleType(f"torch.{NAME}")
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count, module.current_device = lambda: 1, lambda: 0
    module.device = lambda device: contextlib.nullcontext()
    module.manual_seed_all = module.set_device = module.synchronize = lambda *_: None
    # Random numbers are drawn by the CPU's generator.
    module.get_rng_state, module.set_rng_state = lambda *_: torch.get_rng_state(), lambda *_: None
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device(NAME, 0)


class HostDevice(Accelerator):
    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return [0]

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


def strategy() -> SingleDeviceStrategy:
    """For Lightning's trainer."""
    return SingleDeviceStrategy(device=torch.device(NAME, 0), accelerator=HostDevice())
