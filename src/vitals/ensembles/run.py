"""The road of an ensemble: checkpoints → networks → probabilities → figures → table, JSON, chart and page."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from vitals.ensembles.members import Member, Split, load_members
from vitals.ensembles.page import page, print_ensemble
from vitals.ensembles.scores import EnsembleResult, by_size, disagreement, scores, vote_accuracy
from vitals.ensembles.selection import require_members, select
from vitals.errors import UserError
from vitals.files import write_atomically, write_json
from vitals.runs.instantiate import quiet_lightning
from vitals.runs.project import Project
from vitals.runs.run_folder import shown


def ensemble(options: DictConfig, project: Project) -> EnsembleResult:
    """Evaluate an ensemble as `vitals/configs/ensemble.yaml` has it, and write the results to its folder;
    `UserError` if fewer than two members can be used."""
    quiet_lightning()
    selection = select(options)
    members, left_out = load_members(
        selection.candidates, options.split, options.data_root, project, options.get("trust", ())
    )
    left_out = [*selection.left_out, *left_out]
    require_members(len(members), "the selection", left_out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = torch.cat([labels for _, labels in members[0].batches(options.split)]).cpu()
    start = time.perf_counter()
    probabilities = torch.stack([predict(member, options.split, device) for member in members])
    seconds = time.perf_counter() - start
    together = probabilities.mean(0)
    result = EnsembleResult(
        split=options.split,
        images=len(labels),
        checkpoints=[shown(member.path) for member in members],
        names=telling_names([member.path for member in members]),
        left_out=left_out,
        members=[scores(of_member, labels) for of_member in probabilities],
        together=scores(together, labels),
        vote_accuracy=vote_accuracy(probabilities, labels),
        sizes=by_size(probabilities, labels),
        disagreement=disagreement(probabilities),
        images_per_second=len(labels) / seconds,
    )
    folder = Path(options.folder)
    write(result, folder)
    print_ensemble(result, folder, Console())
    return result


@torch.no_grad()
def predict(member: Member, split: Split, device: torch.device) -> Tensor:
    """The probabilities (N, classes; float64, on the CPU) that `member` gives for its images of `split`.

    Members run one after the other: one pass through ten networks with stacked weights was measured slower.
    """
    network = member.network.to(device)
    logits = torch.cat([network(inputs.to(device)) for inputs, _ in member.batches(split)])
    network.cpu()
    if logits.ndim != 2 or logits.shape[1] < 2:
        shape = "×".join(map(str, logits.shape[1:])) or "one number"
        raise UserError(
            f"an ensemble puts class probabilities together, and {type(network).__name__} gives no logits, "
            f"N×classes, but for each sample {shape}."
        )
    return logits.cpu().double().softmax(1)


def record(result: EnsembleResult) -> dict[str, Any]:
    """`result` in plain types, as in `ensemble.json`."""
    return {
        "split": result.split,
        "images": result.images,
        "members": [
            {"checkpoint": checkpoint, **asdict(of_member)}
            for checkpoint, of_member in zip(result.checkpoints, result.members, strict=True)
        ],
        "left_out": result.left_out,
        "ensemble": {**asdict(result.together), "vote_accuracy": result.vote_accuracy},
        "best_member": result.checkpoints[result.best_member],
        "gain": result.gain,
        "warning": result.warning,
        "by_size": [asdict(size) for size in result.sizes],
        "disagreement": result.disagreement.tolist(),
        "mean_disagreement": result.mean_disagreement,
        "images_per_second": result.images_per_second,
    }


def telling_names(paths: list[Path]) -> list[str]:
    """`paths` without the folders at their beginning and the names at their end that all have in common."""
    parts = [path.absolute().parts for path in paths]
    while len({some[0] for some in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [some[1:] for some in parts]
    while len({some[-1] for some in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [some[:-1] for some in parts]
    return ["/".join(some) for some in parts]


def write(result: EnsembleResult, folder: Path) -> None:
    """Write `ensemble.json`, `ensemble.html` and TensorBoard's chart of accuracy over members."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "ensemble.json", record(result))
    write_atomically(folder / "ensemble.html", page(result))
    with SummaryWriter(str(folder)) as writer:
        accuracies = ["ensemble/accuracy$", "ensemble/vote_accuracy$", "ensemble/best_member$"]
        writer.add_custom_scalars({"ensemble": {"accuracy over members": ["Multiline", accuracies]}})
        best = result.members[result.best_member].accuracy
        for size in result.sizes:
            writer.add_scalar("ensemble/accuracy", size.accuracy, size.members)
            writer.add_scalar("ensemble/vote_accuracy", size.vote_accuracy, size.members)
            writer.add_scalar("ensemble/nll", size.nll, size.members)
            writer.add_scalar("ensemble/best_member", best, size.members)
