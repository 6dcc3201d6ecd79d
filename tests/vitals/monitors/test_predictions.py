"""The test probabilities that a run keeps."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from blobs import WORDS
from omegaconf import DictConfig
from torch.nn.functional import cross_entropy

from project.build import build_data, build_module
from vitals.report.predictions import FILE, Predictions
from vitals.runs.callbacks.prediction_writer import PredictionWriter

TINY = (*WORDS, "data.limit=100", "network.widths=[4,4]", "seed=0")


def after_a_test(
    config: DictConfig, folder: Path, **options: object
) -> tuple[L.LightningModule, Predictions]:
    """A network with random weights, and what is kept of its test."""
    torch.manual_seed(0)
    data = build_data(config)
    module = build_module(config, data)
    flags = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "barebones": False}
    flags |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": str(folder)}
    trainer = L.Trainer(**flags, callbacks=[PredictionWriter(worst=5)], **options)  # type: ignore[arg-type]
    trainer.test(module, datamodule=data, verbose=False)
    return module, Predictions.load(folder / FILE)


def test_they_are_those_of_the_network_for_every_test_image_in_order(compose, tmp_path):
    config = compose(*TINY)
    module, kept = after_a_test(config, tmp_path)
    data = build_data(config)
    data.setup()
    inputs = torch.cat([images for images, _ in data.test_dataloader()])
    with torch.no_grad():
        logits = module.eval()(inputs)
    np.testing.assert_array_equal(kept.labels, data.test.labels)
    np.testing.assert_allclose(kept.probabilities, logits.softmax(1), atol=1e-3)
    assert kept.probabilities.dtype == np.float16
    assert kept.classes == data.classes
    losses = cross_entropy(logits, data.test.labels, reduction="none")
    assert kept.worst.tolist() == losses.argsort(descending=True, stable=True)[:5].tolist()
    np.testing.assert_array_equal(kept.worst_images, data.test.images[kept.worst])


def test_the_same_weights_give_the_same_file(compose, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        after_a_test(compose(*TINY), tmp_path / name)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "other" / FILE).read_bytes()


def test_a_module_that_returns_no_logits_keeps_none(tmp_path):
    class Silent(L.LightningModule):
        def test_step(self, batch, batch_idx):
            self.log("test", batch[0].mean())

    images = torch.utils.data.TensorDataset(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=str(tmp_path),
        callbacks=[PredictionWriter()],
    )
    trainer.test(Silent(), torch.utils.data.DataLoader(images, batch_size=2), verbose=False)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn off", b"{}"])
def test_a_damaged_file_is_named(content, tmp_path):
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions\.npz cannot be read"):
        Predictions.load(path)
