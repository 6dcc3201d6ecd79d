"""Evaluate the weights of a finished run, rebuilt from its folder alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.allowed_targets import require_allowed
from vitals.runs.instantiate import load_checkpoint, quiet_lightning, require_same_network
from vitals.runs.metric import Metric
from vitals.runs.project import Project
from vitals.runs.run_folder import RunFolder
from vitals.runs.terminal import print_evaluation, print_unfinished


def evaluate(options: DictConfig, project: Project) -> dict[str, float]:
    """Measure a run's checkpoint with the module's own test or validation, and print the metrics.

    Args:
        options: `run`, `checkpoint`, `split`, `data_root` and `trust`, as `evaluate.yaml` describes them.
        project: that the run belongs to.

    Raises:
        UserError: if the folder, the checkpoint or the data are missing or do not belong together.
    """
    quiet_lightning()
    folder = RunFolder.existing(options.run, "run")
    path = folder.checkpoint(options.checkpoint)
    with answering_for(folder):
        config = config_to_rebuild(folder, options.data_root, options.get("trust", ()))
        metric = Metric.of(config)
        project.prepare(config)
        module, data = project.build(config)
    load(module, data, path)
    trainer = L.Trainer(
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    measure = trainer.test if options.split == "test" else trainer.validate
    measure(module, datamodule=data, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    print_unfinished(folder)
    print_evaluation(path, options.split, metric, metrics)
    return metrics


@contextmanager
def answering_for(folder: RunFolder) -> Iterator[None]:
    """Within it, what is built of the configuration in `folder`: where that fails, it is none of a run.

    Raises:
        UserError: saying so.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes of its reader
        said = str(error).partition("\n")[0]
        raise UserError(f"{folder.config} is not the configuration of a run: {said}") from error


def config_to_rebuild(folder: RunFolder, data_root: str | None, trust: Sequence[str] = ()) -> DictConfig:
    """The configuration of a run, with its data where they are now.

    Args:
        folder: of the run.
        data_root: takes the place of `data.root`, if the data have moved.
        trust: what it may name beside what is allowed, see `allowed_targets`.

    Raises:
        UserError: if the data of the run have no root, or it names what may not be built.
    """
    config = folder.read_config()
    require_allowed(config, folder.config, trust)
    if data_root is not None:
        if "root" not in config.data:
            raise UserError(f"data_root={data_root}: the data of {folder.path} have no key 'root'.")
        config.data.root = data_root
    return config


def load(module: L.LightningModule, data: Any, path: Any) -> None:
    """Load the weights of the checkpoint at `path`, and let the data look at what they were trained on.

    Raises:
        UserError: if the file is damaged, or module or data are not those of the checkpoint.
    """
    checkpoint = load_checkpoint(path)
    require_same_network(module, checkpoint, path)
    module.load_state_dict(checkpoint["state_dict"])
    state = checkpoint.get(type(data).__qualname__)
    try:
        if state:
            data.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
