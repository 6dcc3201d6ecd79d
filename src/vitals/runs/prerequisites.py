"""What a run needs from the machine it starts on: packages, a GPU, perhaps the network."""

import threading
import urllib.request
from contextlib import suppress
from importlib.util import find_spec

from omegaconf import DictConfig

from vitals.errors import UserError


def require_prerequisites(config: DictConfig) -> None:
    """Make sure that what the configuration asks for is there; torch is imported only to look for a GPU.

    Raises:
        UserError: saying what is missing and what to do.
    """
    for name in sorted(set(config.logger) & {"wandb", "mlflow", "trackio"}):
        if find_spec(name) is None:
            raise UserError(f"logger={name} needs the package {name}: pip install {name}")
    sampler = (config.get("search") or {}).get("sampler")
    if sampler and find_spec("optuna") is None:
        raise UserError(f"search={sampler} needs the package optuna: pip install optuna")
    if config.trainer.accelerator == "mps":
        from torch.backends import mps

        if not mps.is_available():
            raise UserError(
                "trainer.accelerator=mps asks for a Mac's GPU, and torch sees none here: take trainer=cpu."
            )
    if config.trainer.accelerator in ("gpu", "cuda"):
        from torch import cuda

        if not cuda.is_available():
            raise UserError(
                f"trainer.accelerator={config.trainer.accelerator} asks for a GPU, and torch sees none here: "
                f"take trainer=cpu or trainer=auto."
            )


def answers(url: str, seconds: float = 6) -> bool:
    """Whether `url` can be reached. In a thread, for a name look-up has no time limit of its own."""
    reached = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        with suppress(OSError), urllib.request.urlopen(request, timeout=seconds):
            reached.set()

    threading.Thread(target=ask, daemon=True).start()
    return reached.wait(seconds)
