"""The seam: what the instrument's commands need to know of a project, and nothing else.

A project is a module (here `project.build`) or any object with these members; `train`, `check`, `evaluate`,
`ensemble` and sweeps reach data and network through them alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from omegaconf import DictConfig

if TYPE_CHECKING:
    import lightning as L

    from vitals.runs.config.schema import RunSchema


class Project(Protocol):
    """The owner's side of a run. It must be importable without torch: a wrong word is answered at once."""

    @property
    def configs(self) -> Path:
        """The folder with `train.yaml` and the project's config groups."""

    @property
    def schema(self) -> type[RunSchema]:
        """What the keys of `train.yaml` may be; see `RunSchema` for those that every project has."""

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
