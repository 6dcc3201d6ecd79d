"""Evaluate the weights of a finished run, rebuilt from its folder alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor

from vitals.either_package import is_own
from vitals.errors import UserError
from vitals.measures.views import flipped, least_sure, shifted, six_views
from vitals.metric import Metric
from vitals.runs.allowed_targets import require_allowed
from vitals.runs.instantiate import load_checkpoint, quiet_lightning, require_same_network
from vitals.runs.project import Project
from vitals.runs.run_folder import RunFolder
from vitals.runs.terminal import print_evaluation, print_unfinished


def evaluate(options: DictConfig, project: Project) -> dict[str, float]:
    """Measure a run's checkpoint with the module's own test or validation, and print the metrics. `options`
    are those of `evaluate.yaml`; `UserError` if the folder, the checkpoint or the data are missing or do not
    belong together, or there are no views of what the module takes."""
    quiet_lightning()
    folder = RunFolder.existing(options.run, "run")
    path = folder.checkpoint(options.checkpoint)
    with answering_for(folder):
        config = config_to_rebuild(folder, options.data_root, options.get("trust", ()))
        metric = Metric.of(config)
        project.prepare(config)
        module, data = project.build(config)
    require_split(module, data, options.split)
    load(module, data, path)
    tta = options.get("tta", "none")
    views = [] if tta == "none" else [Views(module, tta)]
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="auto", devices=1, callbacks=list[L.Callback](views), **quiet)
    measure = trainer.test if options.split == "test" else trainer.validate
    measure(module, datamodule=data, verbose=False)
    if tta == "unsure":
        views[0].choose()
        measure(module, datamodule=data, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    print_unfinished(folder)
    if views and config.data.get("flip") is False:
        print(f"tta={tta} mirrors images, and with data.flip=false this network has seen none mirrored.")
    print_evaluation(path, options.split, metric, metrics, tta)
    return metrics


def require_split(module: L.LightningModule, data: Any, split: str) -> None:
    """Make sure that there is something to measure on `split`; `UserError` saying what is lacking, and which
    other split there is."""
    names = {"test": ("test_step", "test_dataloader"), "val": ("validation_step", "val_dataloader")}
    bases = L.LightningModule, L.LightningDataModule

    def lacking(split: str) -> str:
        parts = zip(names[split], (module, data), bases, strict=True)
        return next(
            (f"{type(p).__name__} has no {name}" for name, p, base in parts if not is_own(name, p, base)), ""
        )

    if why := lacking(split):
        other = "val" if split == "test" else "test"
        instead = "" if lacking(other) else f": take split={other}"
        raise UserError(f"there is nothing to evaluate with split={split}, as {why}{instead}.")


class Views(L.Callback):
    """Takes the place of the `forward` of a module whose test or validation step calls `self(images)`, once a
    batch, with float N×C×H×W, and gives the mean of its outputs over views of the images.

    With `tta="unsure"` the data are gone through twice: first mirrored, by which `choose` tells of which
    images of all the module is least sure; these alone are moved as well.
    """

    def __init__(self, module: L.LightningModule, tta: str) -> None:
        self.original, self.tta, self.called = module.forward, tta, False
        self.first: list[tuple[Tensor, Tensor]] = []
        """Of each batch the first time, by which it is known again, and its outputs."""
        self.unsure: list[Tensor] = []
        """Of each batch yet to come the second time."""
        module.forward = self.forward  # type: ignore[method-assign]

    def forward(self, *inputs: Any) -> Tensor:
        """The mean over the views of `inputs`, which is to be one tensor of images."""
        images = inputs[0] if len(inputs) == 1 else None
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            raise self._impossible("calls it with something else")
        if self.tta != "flip" and min(images.shape[-2:]) < 2:
            raise self._impossible("calls it with images of one pixel, which cannot be moved")
        self.called = True
        if self.tta == "full":
            return six_views(self.once, images)
        if not self.unsure:
            outputs = flipped(self.once, images)
            if self.tta == "unsure":
                if outputs.ndim != 2 or outputs.shape[1] < 2:
                    raise self._impossible("gives no logits, N×classes, by which to tell how sure it is")
                self.first.append((images.sum((1, 2, 3)), outputs))
            return outputs
        (known, outputs), unsure = self.first.pop(0), self.unsure.pop(0)
        if not torch.equal(images.sum((1, 2, 3)), known):
            raise self._impossible("gets other images, or another order of them, the second time")
        if unsure.any():
            outputs[unsure] = (outputs[unsure] + shifted(self.once, images[unsure])) / 2
        return outputs

    def once(self, images: Tensor) -> Tensor:
        """What the module makes of one view."""
        outputs = self.original(images)
        if not isinstance(outputs, Tensor) or outputs.shape[:1] != images.shape[:1]:
            raise self._impossible("gives no tensor with a row for each image")
        return outputs

    def choose(self) -> None:
        """Choose, of all images seen so far, those that are moved the next time."""
        outputs = [outputs for _, outputs in self.first]
        self.unsure = list(least_sure(torch.cat(outputs)).split([len(batch) for batch in outputs]))

    def on_test_batch_end(self, *_: Any) -> None:
        if not self.called:
            raise self._impossible("never calls it")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.on_test_batch_end()

    def _impossible(self, why: str) -> UserError:
        needed = "a module whose step of test or validation calls self(images), float N×C×H×W"
        return UserError(f"tta={self.tta} needs {needed}; that of this run {why}: leave tta out.")


@contextmanager
def answering_for(folder: RunFolder) -> Iterator[None]:
    """Within it, what is built of the configuration in `folder`: where that fails, it is none of a run;
    `UserError` saying so."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes of its reader
        said = str(error).partition("\n")[0]
        raise UserError(f"{folder.config} is not the configuration of a run: {said}") from error


def config_to_rebuild(folder: RunFolder, data_root: str | None, trust: Sequence[str]) -> DictConfig:
    """The configuration of a run, with its data where they are now: `data_root`, where given, takes the place
    of `data.root`. `UserError` if the data of the run have no root, or it names what may not be built, see
    `allowed_targets`."""
    config = folder.read_config()
    require_allowed(config, folder.config, trust)
    if data_root is not None:
        if "root" not in config.data:
            raise UserError(f"data_root={data_root}: the data of {folder.path} have no key 'root'.")
        config.data.root = data_root
    return config


def load(module: L.LightningModule, data: Any, path: Any) -> None:
    """Load the weights of the checkpoint at `path`, and let the data look at what they were trained on;
    `UserError` if the file is damaged, or module or data are not those of the checkpoint."""
    checkpoint = load_checkpoint(path)
    require_same_network(module, checkpoint, path)
    module.load_state_dict(checkpoint["state_dict"])
    state = checkpoint.get(type(data).__qualname__)
    try:
        if state:
            data.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
