"""The seam: what the instrument's commands need to know of a project, and nothing else.

A project is a folder with `configs/train.yaml` and a package: `schema.Experiment` says what its keys may be,
`train.train` is the road of a run, and `build`, a module with the members of `Project`, makes data and
network: `train`, `check`, `evaluate`, `ensemble` and sweeps reach them through it alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from omegaconf import DictConfig, OmegaConf

from vitals.errors import UserError
from vitals.runs.kept_code import copied, original

if TYPE_CHECKING:
    import lightning as L


class Project(Protocol):
    """The owner's side of a run.

    It may also have `read_data(config)`, which looks at the data themselves, before anything is written, and
    raises a `UserError` for what is wrong with them; what is said in shares of an epoch, or in batches, is
    compared with the data that it returns, a LightningDataModule that is set up, or None.
    """

    def prepare(self, config: DictConfig) -> None:
        """Look, before anything is written, for what `build` would stumble over; cheap, without the data.
        `UserError` saying what is wrong and what would be right."""

    def build(self, config: DictConfig) -> tuple[L.LightningModule, L.LightningDataModule]:
        """The module that trains and its data, as configured; `config.seed` is set. `UserError` if a
        constructor refuses its arguments, or the data cannot be read."""


@dataclass(frozen=True)
class ProjectFolder:
    """Where a project lies."""

    configs: Path
    """The folder of `train.yaml` and the project's config groups."""
    package: str
    """The name of its code, which can be imported."""

    @classmethod
    def around(cls, script: str | None = None) -> ProjectFolder:
        """The project in the folder of `script`, or else in the working folder, or in the nearest one above.

        Its code is the one package with `build.py`, `schema.py` and `train.py` that lies in `src/`, or else
        beside `configs/`; it becomes importable, before any other of its name. `UserError` if there is no
        such folder, or not one such package.
        """
        start = original(Path(script).absolute().parent) if script else Path.cwd()
        above = (start, *start.parents)
        folder = next((place for place in above if (place / "configs" / "train.yaml").is_file()), None)
        if folder is None:
            raise UserError(
                f"{start} is not in a project: neither it nor a folder above it holds configs/train.yaml; "
                f"go to the folder of your project."
            )
        for place in (copied(folder / "src"), copied(folder)):  # in a sweep's job, of its copy of the code
            found = sorted(file.parent.name for file in place.glob("*/schema.py") if _is_project(file.parent))
            if len(found) > 1:
                raise UserError(f"{place} holds several projects, {', '.join(found)}: leave one there.")
            if found:
                if str(place) not in sys.path[:1]:
                    sys.path.insert(0, str(place))
                return cls(copied(folder / "configs"), found[0])
        raise UserError(
            f"{folder} holds configs/train.yaml and no code: a package with build.py, schema.py and train.py "
            f"belongs into its src/ or beside configs/."
        )

    def trusts(self, given: str | Sequence[str] | None = None) -> list[str]:
        """What `trust` names, which the folder of a run may name too: as `given`, and in `train.yaml`."""
        config = OmegaConf.load(self.configs / "train.yaml")
        values = (given, OmegaConf.select(config, "trust"))
        return [name for value in values for name in ([value] if isinstance(value, str) else value or ())]

    def module(self, name: str) -> Any:
        """A module of its code, such as `build`."""
        return import_module(f"{self.package}.{name}")


def _is_project(package: Path) -> bool:
    return all((package / f"{name}.py").is_file() for name in ("build", "schema", "train"))
