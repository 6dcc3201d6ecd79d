"""Run folders as a training leaves them, made up from formulas."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from vitals.findings import Finding, write_findings
from vitals.history import History
from vitals.report.predictions import Predictions

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def layer_names(count: int) -> list[str]:
    return [f"network.stage{index // 4 + 1}.{index % 4}.conv" for index in range(count)]


def write_history(
    folder: Path, steps: int = 600, every: int = 50, layers: list[str] | None = None, epochs: float = 6.0
) -> None:
    """`history.jsonl` of a healthy training: the tags of all monitors."""
    random = np.random.default_rng(0)
    layers = layer_names(6) if layers is None else layers
    history = History(folder / "history.jsonl")
    for measured, step in enumerate(range(every, steps + 1, every)):
        epoch, share = epochs * step / steps, step / steps
        block = 0.1 + 2.2 * np.exp(-4 * np.linspace(share - every / steps, share, every))
        noisy = block * (1 + 0.15 * random.standard_normal(every))
        norms = (1 + share) * np.exp(0.3 * random.standard_normal(every))
        history.add_steps(step, epoch, {"loss/train_step": noisy.tolist(), "gradient_norm": norms.tolist()})
        history.add(step, epoch, _scalars(layers, share, random))
        if measured % 10 == 0 or step + every > steps:
            history.add(step, epoch, _histograms(layers, share, random))
        if measured == 0 or step + every > steps:
            history.add(step, epoch, {f"filters/{layers[0]}": {"png": png(random, share)}})


def _scalars(layers: list[str], share: float, random: np.random.Generator) -> dict[str, float]:
    values: dict[str, float] = {}
    ratios = []
    for depth, layer in enumerate(layers):
        place = depth / max(len(layers) - 1, 1)
        ratio = (
            2e-3 * 10 ** (-0.6 * place) * (1 - 0.9 * share) * float(np.exp(0.2 * random.standard_normal()))
        )
        ratios.append(ratio)
        values[f"update_ratio/{layer}.weight"] = ratio
        values[f"weight_norm/{layer}.weight"] = 3 + place + share
        values[f"activation_mean/{layer}"] = 0.1
        values[f"activation_std/{layer}"] = 1.0
        values[f"activation_variance/{layer}"] = 10 ** (-0.4 * place * (1 - share)) * (1 + 0.1 * share)
        values[f"gradient_variance/{layer}"] = 1e-5 * 10 ** (1.5 * place * (1 - 0.5 * share))
        values[f"dead_units/{layer}"] = min(0.6 * place * share, 1.0)
        values[f"saturated_units/{layer}"] = 0.001
    summary = {"min": min(ratios), "median": float(np.median(ratios)), "max": max(ratios)}
    values |= {f"update_ratio_summary/{name}": value for name, value in summary.items()}
    rate = 0.05 * (1 + float(np.cos(np.pi * share)))
    values |= {"lr/decay": rate, "lr/no_decay": rate, "momentum/decay": 0.9, "loss_noise": 0.15}
    values |= {"gradient_noise/scale": 300 * (1 + share), "images_per_second": 1800.0}
    train, val = 0.9 - 0.7 * float(np.exp(-4 * share)), 0.84 - 0.64 * float(np.exp(-4 * share))
    values |= {"accuracy/train_eval": train, "accuracy/val_eval": val, "accuracy/gap": train - val}
    values |= {
        "loss/train_eval": 2.3 * float(np.exp(-3 * share)),
        "loss/val_eval": 2.4 * float(np.exp(-2.6 * share)),
    }
    filters = {"moved": 0.4 * share, "smoothness": 0.3, "duplicates": 0}
    return values | {f"first_layer/{name}": value for name, value in filters.items()}


def _histograms(layers: list[str], share: float, random: np.random.Generator) -> dict[str, Any]:
    values = {}
    for layer in layers:
        for tag, scale in (
            (f"activations/{layer}", 1 + share),
            (f"gradients/{layer}.weight", 1e-3 * (1.1 - share)),
            (f"weights/{layer}.weight", 0.05 * (1 + 0.5 * share)),
        ):
            counts, edges = np.histogram(scale * random.standard_normal(3000), bins=64)
            values[tag] = {"edges": edges.tolist(), "counts": counts.tolist()}
    return values


def png(random: np.random.Generator, share: float = 0.0) -> str:
    """A grid of 4×8 filters as base64 of a PNG, the smoother the later."""
    size, side = 24, 8
    grid = np.full((4 * (size + 2) + 2, 8 * (size + 2) + 2, 3), 128, np.uint8)
    for row in range(4):
        for column in range(8):
            low = (
                random.standard_normal((3, 3, 3)) if share > 0.5 else random.standard_normal((side, side, 3))
            )
            part = np.clip(128 + 50 * low, 0, 255).astype(np.uint8)
            part = np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC))
            top, left = 2 + row * (size + 2), 2 + column * (size + 2)
            grid[top : top + size, left : left + size] = part
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_metrics(folder: Path, epochs: int = 6) -> None:
    """`metrics.csv`, whose averaged weights come with the second epoch."""
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        share = epoch / epochs
        row = {
            "epoch": epoch,
            "step": 100 * epoch,
            "loss/train": 2.3 * np.exp(-2.8 * share),
            "loss/val": 2.35 * np.exp(-2.5 * share) + 0.15 * share,
            "accuracy/train": 0.88 - 0.75 * np.exp(-4 * share),
            "accuracy/val": 0.84 - 0.7 * np.exp(-4 * share) + 0.01 * (-1) ** epoch,
        }
        if epoch > 1:
            row |= {
                "val_average/loss": row["loss/val"] - 0.05,
                "val_average/accuracy": row["accuracy/val"] + 0.012,
            }
        rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_predictions(folder: Path, classes: list[str] = CLASSES, count: int = 1000) -> None:
    """`predictions.npz`, right for most images."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % len(classes)
    logits = random.standard_normal((count, len(classes)))
    logits[np.arange(count), labels] += 3
    logits[labels == 3, 5 % len(classes)] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    worst = probabilities[np.arange(count), labels].argsort(kind="stable")[:24]
    pixels = random.integers(0, 255, (len(worst), 3, 8, 8), dtype=np.uint8)
    images = pixels.repeat(4, axis=2).repeat(4, axis=3)
    predictions = Predictions(probabilities.astype(np.float16), labels, classes, worst, images)
    predictions.save(folder / "predictions.npz")


def write_config(folder: Path, **changed: Any) -> None:
    """`config.yaml` with provenance, and `status.json`."""
    config = {
        "name": "cifar10",
        "seed": 7,
        "data": {"name": "cifar10", "batch_size": 128},
        "network": {"_target_": "project.networks.convnet.ConvNet", "widths": [32, 64, 128]},
        "optimizer": {
            "_target_": "torch.optim.SGD",
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
        },
        "schedule": {"_target_": "project.optim.schedules.cosine", "warmup_epochs": 1.0},
        "trainer": {"max_epochs": 6},
    }
    provenance = {
        "command": "python scripts/train.py data=cifar10 trainer.max_epochs=6",
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "machine": {"host": "here", "system": "Linux", "cpus": 2, "gpus": []},
        "choices": {"data": "cifar10", "network": "convnet", "optimizer": "nesterov", "schedule": "cosine"},
    }
    settings = OmegaConf.merge(
        config, OmegaConf.from_dotlist([f"{key}={value}" for key, value in changed.items()])
    )
    OmegaConf.save(OmegaConf.merge(settings, {"provenance": provenance}), folder / "config.yaml")
    status = {
        "status": "finished",
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:11:47+00:00",
        "error": None,
        "epoch": 6,
        "step": 600,
        "training_seconds": 462.0,
        "metrics": {"best/epoch": 6, "test/loss": 0.52, "test/accuracy": 0.8312},
    }
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")


FINDINGS = [
    Finding(
        "gradients-correct",
        "ok",
        "71 elements of 19 tensors agree with centred differences.",
        value=9.8e-8,
        threshold=1e-4,
    ),
    Finding("skipped", "note", "Gradients: kinks lie within the smallest step.", station="gradients"),
    Finding(
        "loss-at-chance",
        "ok",
        "The loss before training is 2.305, that of a uniform guess 2.303.",
        where="loss",
        value=2.3046,
        threshold=2.3026,
    ),
    Finding(
        "tiny-subset-fits",
        "ok",
        "20 examples reach accuracy 100% and loss 0.0067 after 22 steps.",
        where="tiny subset",
        value=0.0067,
        threshold=0.01,
    ),
    Finding(
        "dead-relu",
        "warn",
        "58% of the units of network.stage2.1.conv are dead since step 450.",
        "Lower optimizer.lr from 0.1 to about 0.01, or warm up over an epoch.",
        "network.stage2.1.conv",
        0.58,
        0.5,
        450,
        4.5,
    ),
]


def write_run(folder: Path, **history: Any) -> Path:
    """A finished run with all of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder)
    write_metrics(folder)
    write_predictions(folder)
    write_findings(FINDINGS, folder / "findings.json")
    write_history(folder, **history)
    return folder
