"""Three recipes train as they always have: their losses were recorded, and stay what they were.

The seed makes the numbers the same to the bit on one machine. Another processor, number of threads or version
of torch adds in another order and rounds otherwise: on two threads, or without oneDNN's kernels, these losses
differ by no more than 8e-7 of themselves. Twelve steps let that grow, but to far less than `ROUNDING`, while
whatever changes what is trained (another draw, order, augmentation, rate or default) changes far more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from project.train import train
from vitals.files import read_metrics
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = [
    "data=digits",
    "data.limit=128",
    "data.batch_size=32",
    "trainer.max_epochs=3",
    "seed=0",
    "checks=none",
]
WORDS += ["callbacks=none", "~callbacks.progress", "~callbacks.predictions", "logger=none", "threads=1"]
WORDS += ["diagnosis.report=false", "diagnosis.probe=false", "trainer.accelerator=cpu"]
ROUNDING = 1e-4
"""Share of a loss."""

RECIPES = {
    "mlp": ["network=mlp", "optimizer=sgd", "optimizer.lr=0.05", "schedule=step", "average=none"],
    "convnet": [
        "optimizer.lr=0.2",
        "network.widths=[8,8]",
        "network.dropout=0.2",
        "module.label_smoothing=0.1",
    ],
    "three_layer": [
        "network=three_layer",
        "optimizer=adamw",
        "schedule=one_cycle",
        "trainer.accumulate_grad_batches=2",
        "trainer.gradient_clip_val=1.0",
    ],
}
GOLDEN: dict[str, list[tuple[float, float]]] = {
    "mlp": [(2.312978, 2.156733), (2.153291, 1.854715), (1.990596, 1.720347)],
    "convnet": [(2.303831, 2.302112), (2.305156, 2.299742), (2.297188, 2.297520)],
    "three_layer": [(2.307187, 1.887613), (1.785031, 1.027790), (0.958613, 0.710361)],
}
"""Of training and validation, by epoch."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_losses_that_it_had(recipe: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [*WORDS, *RECIPES[recipe]])
    run(config, RunFolder(tmp_path), train)
    rows = read_metrics(tmp_path / "metrics.csv")
    found = [(row["loss/train"], row["loss/val"]) for row in rows]
    for losses, expected in zip(found, GOLDEN[recipe], strict=True):
        assert losses == pytest.approx(expected, rel=ROUNDING)
