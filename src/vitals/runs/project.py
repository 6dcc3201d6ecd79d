"""The seam: what the instrument's commands need to know of a project, and nothing else.

A project is a module (here `project.build`) or any object with these members; `train`, `check`, `evaluate`,
`ensemble` and sweeps reach data and network through them alone.
"""

from __future__ import annotations

from typing import Protocol

import lightning as L
from omegaconf import DictConfig


class Project(Protocol):
    """The owner's side of a run."""

    def prepare(self, config: DictConfig) -> None:
        """Look, before anything is written, for what `build` would stumble over; cheap, without the data.

        Raises:
            UserError: saying what is wrong and what would be right.
        """

    def build(self, config: DictConfig) -> tuple[L.LightningModule, L.LightningDataModule]:
        """The module that trains and its data, as configured; `config.seed` is set.

        Raises:
            UserError: if a constructor refuses its arguments, or the data cannot be read.
        """
