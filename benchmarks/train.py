"""Images per second of a whole training, beside a loop written by hand: `python -m benchmarks.train`.

The training has its logging, learning curves, progress bar and checkpoints; neither validates.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import lightning as L
import torch
from torch.nn.functional import cross_entropy

from benchmarks.compare import compare, composed, data_of, fit, synthetic_images
from project.build import build_module
from vitals.runs.instantiate import build_callbacks


class Clock(L.Callback):
    """Seconds from the start of the training to its end, checkpoints included."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--images", type=int, default=45_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.batch_size
    words = f"data=digits data.batch_size={size} data.crop_padding=4 data.flip=true seed=0".split()
    words += ["trainer.max_epochs=1", "trainer.limit_val_batches=1", "schedule.warmup_epochs=0"]
    config = composed(*words)
    data = data_of(config, synthetic_images(arguments.images))
    images = len(data.train) // size * size

    def whole() -> float:
        clock = Clock()
        fit(config, data, [*build_callbacks(config), clock])
        return images / clock.seconds

    def by_hand() -> float:
        classifier: Any = build_module(config, data)
        network, batches = classifier.network.train(), data.train_dataloader()
        optimizer = classifier.make_optimizer(network)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        start = time.perf_counter()
        for batch, labels in batches:
            loss = cross_entropy(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        return images / (time.perf_counter() - start)

    arms = {"vitals": whole, "loop by hand": by_hand}
    compare(f"training in batches of {size}, images per second", arms, arguments.rounds)


if __name__ == "__main__":
    main()
