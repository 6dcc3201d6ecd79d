"""Evaluate the weights of a finished run, rebuilt from its folder alone."""

from __future__ import annotations

import lightning as L
from omegaconf import DictConfig

from project.data.locate import require_images
from vitals.runs.instantiate import (
    build_classifier,
    build_data,
    load_checkpoint,
    quiet_lightning,
    require_same_network,
)
from vitals.runs.run_folder import RunFolder
from vitals.runs.terminal import print_evaluation


def evaluate(options: DictConfig) -> dict[str, float]:
    """Measure loss and accuracy of a run's checkpoint and print them.

    Args:
        options: `run`, `checkpoint`, `split` and `data_root`, as `configs/evaluate.yaml` describes them.

    Raises:
        UserError: if the folder, the checkpoint or the images are missing or do not belong together.
    """
    quiet_lightning()
    folder = RunFolder.existing(options.run, "run")
    path = folder.checkpoint(options.checkpoint)
    config = folder.read_config()
    if options.data_root is not None:
        config.data.root = options.data_root
    require_images(config.data.name, config.data.root)
    checkpoint = load_checkpoint(path)
    data = build_data(config)
    classifier = build_classifier(config, data)
    require_same_network(classifier, checkpoint, path)
    classifier.load_state_dict(checkpoint["state_dict"])
    data.load_state_dict(checkpoint["ImageData"])
    trainer = L.Trainer(
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    measure = trainer.test if options.split == "test" else trainer.validate
    measure(classifier, datamodule=data, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    print_evaluation(path, options.split, metrics)
    return metrics
