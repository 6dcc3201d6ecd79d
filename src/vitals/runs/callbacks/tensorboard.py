"""TensorBoard in the run's own folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from vitals.bounded_yaml import flat
from vitals.runs.config.schema import RunSchema
from vitals.runs.loggers import output_folder

FIRST = ("optimizer", "optimizer.lr", "schedule")
"""Columns of the hparams tab that come first: it has five of them, what differs before what does not, and
else by the alphabet."""


class RunTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger with the event files in `save_dir`, the run's folder, itself, and no
    `hparams.yaml`, as `config.yaml` holds what that would. `options` are of torch's `SummaryWriter`."""

    def __init__(self, save_dir: str | Path | None = None, **options: Any) -> None:
        folder = str(save_dir or output_folder())
        super().__init__(folder, name="", version="", default_hp_metric=False, **options)

    @rank_zero_only
    def position(self) -> dict[str, int]:
        """The event files so far, and how many bytes each has."""
        self.save()
        return {file.name: file.stat().st_size for file in self._files()}

    @rank_zero_only
    def go_back(self, position: Mapping[str, int]) -> None:
        """Take away, before anything is written, what came after `position`: a resumed run writes it anew.
        (TensorBoard's `purge_step` knows one x-axis only, and curves over epochs have another.)"""
        for file in self._files():
            if file.name not in position:
                file.unlink()
            elif file.stat().st_size > position[file.name]:
                with file.open("r+b") as events:
                    events.truncate(position[file.name])

    def _files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob("events.out.tfevents.*"))

    @rank_zero_only
    def log_results(self, config: dict[str, Any], metrics: dict[str, float]) -> None:
        """Fill the hparams tab with the run's `config` and its final `metrics` in the order of their columns,
        at the step `run/last/epoch` among them, and show the configuration as the text card `config`."""
        step = int(metrics["run/last/epoch"])
        self.log_metrics(metrics, step)
        found = self._sanitize_params(hyperparameters(config))
        experiment, *session = hparams(found, metrics)
        plugin = experiment.value[0].metadata.plugin_data
        columns = HParamsPluginData.FromString(plugin.content)
        for column in columns.experiment.hparam_infos:
            column.differs = column.name in FIRST
        for column in columns.experiment.metric_infos:
            column.display_name = column.name.tag.removeprefix("run/")
        plugin.content = columns.SerializeToString()
        for summary in (experiment, *session):
            self.experiment._get_file_writer().add_summary(summary, step)
        text = OmegaConf.to_yaml(OmegaConf.create(config))
        self.experiment.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    @rank_zero_only
    def save(self) -> None:
        """Flush the event file."""
        self.experiment.flush()


def hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """What tells runs apart, for the hparams tab: `optimizer`, `optimizer.lr`, `network.dropout` …"""
    components = {
        group: values
        for group, values in config.items()
        if isinstance(values, dict) and "_target_" in values and group not in RunSchema.model_fields
    }
    of_trainer = ("max_epochs", "max_steps", "max_time", "precision", "devices")
    trainer = {key: config.get("trainer", {}).get(key) for key in of_trainer}
    components["trainer"] = {key: value for key, value in trainer.items() if value != -1}
    found: dict[str, Any] = {key: config[key] for key in ("seed",) if key in config}
    for key, value in flat(components).items():
        place, _, name = key.rpartition(".")
        if name == "_target_" and value:
            found[place] = value.rpartition(".")[-1]
        elif value is not None and not name.startswith("_"):
            found[key] = value
    return found
