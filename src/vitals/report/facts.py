"""What the page says in words and tables: one sentence a station, key figures, how to reproduce the run, and
runs side by side."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import yaml

from vitals.bounded_yaml import flat
from vitals.errors import as_sentence, counted
from vitals.files import chose_average
from vitals.measures.healthy import UPDATE_RATIO
from vitals.metric import Metric, Row, bare_name, epoch_in
from vitals.report.curves import gap_of
from vitals.report.numbers import duration, number, percent, points
from vitals.report.record import Curve, LeftOut, RunRecord

Rows = list[tuple[str, str]]
LOSSES = (
    ("training", ("loss/train", "loss/train_eval", "loss/train_step")),
    ("validation", ("loss/val", "loss/val_eval")),
)
"""Under which tags the loss of each part stands, the first that was measured."""


def key_figures(run: RunRecord) -> Rows:
    """The figures at the head of the page, as many as the folder gives."""
    metrics = run.status.get("metrics") or {}
    rows: Rows = []
    if "test/accuracy" in metrics:
        said = f"test accuracy{_against_chance(run, 'accuracy', percent)}"
        rows.append((said, percent(float(metrics["test/accuracy"]))))
    averaged = run.curve("val_average/accuracy") if chose_average(run.status) else run.curve()
    if len(averaged):
        rows.append(("validation accuracy of the averaged weights, chosen", percent(averaged.last)))
    elif run.best:
        name, epoch, score = _best(run.best)
        rows.append((f"best validation {name}, of {run.axis[:-1]} {epoch}", score))
    else:
        logged = (*other_metrics(run), "loss")
        ends = [(f"last validation {name}", run.curve(f"{name}/val", f"{name}/val_eval")) for name in logged]
        rows += [(title, number(curve.last)) for title, curve in ends[-3:] if len(curve)]
    loss = run.curve("loss/train", "loss/train_eval", "loss/train_step")
    if len(loss):
        said = f"last training loss{_against_chance(run, 'loss', number)}"
        rows.append((said, number(float(loss.values[-1]))))
    if np.isfinite(gap := gap_of(run).last):
        rows.append(("points of gap, training less validation accuracy", points(gap)))
    epochs, steps = _length(run)
    if steps:
        whole = int(epochs) if epochs == int(epochs) else round(epochs, 2)
        rows.append((f"{'epoch' if whole == 1 else 'epochs'}, {counted(steps, 'step')}", number(whole)))
    if seconds := run.status.get("training_seconds"):
        each = f", {duration(seconds / epochs)} an epoch" if epochs else ""
        rows.append((f"training time{each}", duration(float(seconds))))
    speed = run.curve("images_per_second")
    if np.isfinite(speed.values).any():
        samples = float(np.nanmedian(speed.values))
        batch = run.history.last("facts/batch_size")
        each = f", a batch of {batch:g} in {duration(batch / samples)}" if batch and samples > 0 else ""
        rows.append((f"samples a second{each}", number(samples)))
    return rows


def _against_chance(run: RunRecord, quantity: str, write: Callable[[float], str]) -> str:
    """What guessing would give, to compare with; empty where the run does not say."""
    chance = run.history.last(f"facts/chance_{quantity}")
    return f"; chance is {write(float(chance))}" if chance and np.isfinite(chance) else ""


def _best(best: tuple[Metric, Row]) -> tuple[str, str, str]:
    """What the best epoch is judged by, which it is, and its score."""
    metric, row = best
    name = bare_name(metric.name.removesuffix("_eval"))
    return name, number(epoch_in(row)), metric.text(row[metric.name], 1)  # as the other key figures


def other_metrics(run: RunRecord) -> list[str]:
    """What the module logs of training or validation besides loss and accuracy, such as `iou`."""
    tags = [tag for tag in run.tags("") if tag.endswith(("/train", "/val"))]
    names = dict.fromkeys(tag.rpartition("/")[0] for tag in tags)
    averaged = {f"average_{tag.partition('/')[2]}" for tag in run.tags("val_average/")}
    own = [name for name in names if name not in averaged]  # which have a station of their own
    return [name for name in own if name.removesuffix("_eval") not in ("loss", "accuracy")]


def own_losses(run: RunRecord) -> list[str]:
    """What the module logs as losses under names of its own, as one with several does: `g_loss`, `d_loss`."""
    named = (tag for tag in run.tags("") if "loss" in tag.lower() and "/" not in tag)
    return sorted(tag for tag in named if tag != "loss_noise")


def has_loss(run: RunRecord) -> bool:
    """Whether a loss was recorded that is the training's, without which no rule judges one."""
    return any(len(run.curve(*tags)) for _, tags in LOSSES)


def has_accuracy(run: RunRecord) -> bool:
    """Whether a validation accuracy was recorded, without which no rule judges one."""
    return bool(np.isfinite(run.curve("accuracy/val", "accuracy/val_eval").values).any())


def looked(run: RunRecord) -> str:
    """How many verdicts were measured and which could not be; empty where the page says it all without."""
    looks = next((finding for finding in run.findings if finding.cause == "looks"), None)
    found = any(finding.alarming for finding in run.findings)
    return looks.message if looks and (found or looks.value != looks.threshold) else ""


def subtitle(run: RunRecord) -> str:
    """Data, network, optimizer, seed and state of the run in one line."""
    choices = run.provenance.get("choices") or {}
    words = [str(choices[key]) for key in ("data", "network", "optimizer") if choices.get(key)]
    if run.config.get("seed") is not None:
        words.append(f"seed {run.config['seed']}")
    if when := run.status.get("ended") or run.status.get("started"):
        words.append(str(when).replace("T", " ").replace("+00:00", " UTC"))
    return " · ".join(words)


def progress(run: RunRecord) -> str:
    """How far the run is, and whether it still goes on, in one sentence."""
    status, (epochs, steps) = str(run.status.get("status") or ""), _length(run)
    if run.unjudged or not status:
        status = "whether it still goes on is not told"
    if not steps:
        return f"{status.capitalize()}: no step was taken yet."
    whole = run.history.last("facts/total_steps")
    of = f" of {int(whole):,}" if whole and np.isfinite(whole) and whole > steps else ""
    return f"{status.capitalize()}: epoch {number(round(epochs, 2))}, step {steps:,}{of}."


def reproduction(run: RunRecord) -> Rows:
    """Command, commit, versions and machine; `LeftOut` where the folder does not say where it came from."""
    facts = run.provenance
    if not facts:
        raise LeftOut(run.missing.get("config.yaml", "config.yaml does not say where the run came from"))
    rows: Rows = []
    if command := facts.get("command"):
        rows.append(("command", _with_seed(str(command), run.config.get("seed"))))
    git = facts.get("git") or {}
    if git.get("commit"):
        changed = ", with changes not committed" if git.get("dirty") else ""
        rows.append(("git commit", f"{git['commit']}{changed}"))
    if versions := facts.get("versions"):
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if machine := facts.get("machine"):
        gpus = machine.get("gpus") or []
        parts = [
            str(machine.get("system", "")),
            counted(int(machine.get("cpus") or 0), "CPU"),
            *map(str, gpus),
        ]
        rows.append(("machine", ", ".join(part for part in parts if part)))
    for later in facts.get("resumed") or []:
        rows.append(("resumed by", str(later.get("command", ""))))
    return rows


def configuration(run: RunRecord) -> str:
    """The configuration as YAML; `LeftOut` where there is none."""
    if not run.config:
        raise LeftOut(run.missing.get("config.yaml", "config.yaml is empty"))
    return yaml.safe_dump(run.config, allow_unicode=True, sort_keys=False)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `config`, which differ where they mean something else, by their dotted keys; what is null
    is not there."""
    return {key: said for key, value in flat(config).items() if (said := plain(value)) is not None}


def plain(value: Any) -> Any:
    """A setting as the value that it stands for, however it is spelled: `1e-1` and `"0.10"` are 0.1.

    YAML's rules for words leave `1e-1` a text, while Hydra and OmegaConf read a number.
    """
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, str):
        words = {"true": True, "false": False, "null": None, "none": None, "~": None, "": None}
        if (word := value.strip().lower()) in words:
            return words[word]
        for kind in (int, float):
            try:
                value = kind(word)
                break
            except ValueError:
                continue
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_checked(what: str, run: RunRecord) -> str:
    raise LeftOut(run.missing.get("findings.json", what))


def _loss(run: RunRecord) -> str:
    named = ((name, run.curve(*tags)) for name, tags in LOSSES)
    sentences = [f"{name} loss {_change(curve)}" for name, curve in named if len(curve)]
    if not sentences and (own := own_losses(run)):
        sentences = ["losses of its own: " + ", ".join(f"{tag} {_change(run.curve(tag))}" for tag in own)]
    if not sentences:
        raise LeftOut("no loss was recorded")
    noise = run.curve("loss_noise")
    if len(noise):
        sentences.append(f"noise from batch to batch {percent(noise.last)} of it")
    if chance := _against_chance(run, "loss", number):
        sentences.append(chance.removeprefix("; "))
    return as_sentence("; ".join(sentences))


def _accuracy(run: RunRecord) -> str:
    judged = has_accuracy(run)
    sentences = [] if judged else ["no accuracy was recorded that could be judged"]
    ends = [
        f"{name} in {part} {_change(curve)}"
        for name in other_metrics(run)[:4]
        for part, curve in (
            ("training", run.curve(f"{name}/train")),
            ("validation", run.curve(f"{name}/val")),
        )
        if len(curve)
    ]
    if not judged and not ends:
        raise LeftOut("neither an accuracy nor another metric of validation was recorded")
    if run.best:
        name, epoch, score = _best(run.best)
        chance = _against_chance(run, "accuracy", percent).removeprefix("; ")
        of_accuracy = f" ({chance})" if chance else ""
        said = f"{score}{of_accuracy}" if name == "accuracy" else f"{name} {score}"
        sentences.append(f"validation is best in {run.axis[:-1]} {epoch} with {said}")
    gap = gap_of(run).last
    if judged and np.isfinite(gap):
        sentences.append(f"the last gap is {points(gap)} points")
    return as_sentence("; ".join(sentences if judged else sentences + ends))


def _updates(run: RunRecord) -> str:
    median = run.curve("update_ratio_summary/median")
    if not len(median):
        raise LeftOut(run.missing.get("history.jsonl", "no update ratio was recorded"))
    finite = median.values[np.isfinite(median.values)]
    if not len(finite):
        return "The median update ratio was never finite."
    # Of the whole run and not of its end alone, where a schedule may have taken the rate to zero.
    low, middle, high = (number(float(value)) for value in np.quantile(finite, (0.0, 0.5, 1.0)))
    seen = f"The median update ratio was around {middle}, between {low} and {high}; {number(median.last)} at"
    return f"{seen} the end (healthy: {number(UPDATE_RATIO[0])} to {number(UPDATE_RATIO[1])})."


def _first_layer(run: RunRecord) -> str:
    sentences = []
    if len(moved := run.curve("first_layer/moved")):
        sentences.append(f"Filters have turned by {number(moved.last)} (0: not at all, 1: at a right angle)")
    if len(smooth := run.curve("first_layer/smoothness")) and np.isfinite(smooth.last):
        sentences.append(f"smoothness {number(smooth.last)} (0: noise, 1: flat)")
    if len(twins := run.curve("first_layer/duplicates")) and np.isfinite(twins.last):
        sentences.append(f"{percent(twins.last)} of them have a twin")
    if not sentences and not run.tags("filters/"):
        raise LeftOut(run.missing.get("history.jsonl", "no filters were recorded"))
    return as_sentence("; ".join(sentences)) if sentences else "Its filters are drawn below."


def _optimizer(run: RunRecord) -> str:
    optimizer = run.config.get("optimizer")
    if not isinstance(optimizer, Mapping) or "_target_" not in optimizer:
        raise LeftOut(run.missing.get("config.yaml", "config.yaml names no optimizer"))
    names = {"lr": "learning rate", "weight_decay": "weight decay"}
    values = [
        f"{names.get(key, str(key))} {_value(value)}"
        for key, value in optimizer.items()
        if isinstance(value, int | float | list) and not isinstance(value, bool)
    ]
    nesterov = " with Nesterov momentum" if optimizer.get("nesterov") else ""
    batch = (run.config.get("data") or {}).get("batch_size")
    values += [f"batch {batch}"] if batch else []
    return f"{str(optimizer['_target_']).rpartition('.')[2]}{nesterov}: {', '.join(values)}."


def _decay(run: RunRecord) -> str:
    sentences = []
    schedule = run.config.get("schedule")
    if isinstance(schedule, Mapping):
        name = (run.provenance.get("choices") or {}).get("schedule")
        target = str(name or schedule.get("_target_") or "").rpartition(".")[2]
        warmup = schedule.get("warmup_epochs") or 0
        warm = f" after {number(float(warmup))} epoch{'s' * (warmup != 1)} of warm-up" if warmup else ""
        sentences.append(f"{target.replace('_', ' ').capitalize()}{warm}")
    rate = run.curve(*run.tags("lr/")[:1])
    if len(rate):
        highest, last = (number(float(value)) for value in (np.nanmax(rate.values), rate.values[-1]))
        sentences.append(f"the learning rate went from {highest} at most to {last} at the end")
    if not sentences:
        raise LeftOut("no schedule and no learning rate were recorded")
    return as_sentence("; ".join(sentences))


def _search(run: RunRecord) -> str:
    parts = run.folder.absolute().parts
    if "sweeps" in parts:
        return f"One job of a sweep: {run.folder.absolute().name}."
    if not run.config:
        raise LeftOut("the folder does not say whether the run belongs to a search")
    raise LeftOut("a single run, not one of a search")


def _averages(run: RunRecord) -> str:
    raw, averaged = run.curve("accuracy/val"), run.curve("val_average/accuracy")
    if not len(averaged):
        raise LeftOut("the weights were not averaged")
    gain = points(averaged.last - raw.last)
    seen = f"Averaged weights reach {percent(averaged.last)} in validation, {gain} points against the raw"
    return f"{seen}{'; the run chose them' if chose_average(run.status) else ''}."


HEADLINES: dict[str, Callable[[RunRecord], str]] = {
    "gradients": partial(_not_checked, "the gradients were not checked"),
    "before": partial(_not_checked, "nothing was checked before learning"),
    "loss": _loss,
    "accuracy": _accuracy,
    "updates": _updates,
    "first-layer": _first_layer,
    "optimizer": _optimizer,
    "decay": _decay,
    "search": _search,
    "averages": _averages,
}
"""One sentence on what the run's folder says of a station; `LeftOut` where it says nothing."""


def _change(curve: Curve) -> str:
    """From its first value to its last, or the only one."""
    first, last = number(float(curve.values[0])), number(float(curve.values[-1]))
    return f"{first} → {last}" if len(curve) > 1 else last


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return number(float(value)) if isinstance(value, int | float) else str(value)


def _length(run: RunRecord) -> tuple[float, int]:
    """Epochs and steps of the run."""
    last = [(float(row["epoch"]), int(row.get("step", 0))) for row in run.metrics[-1:]]
    for tag in run.history.tags():
        series = run.history.series(tag)
        last.append((series.epochs[-1], series.steps[-1]))
    return max(last, key=lambda pair: pair[1], default=(0.0, 0))


def _with_seed(command: str, seed: Any) -> str:
    """The command with the seed that was drawn, without which it would give another run."""
    drawn = seed is not None and not re.search(r"(^|\s)seed=\d", command)
    return f"{command} seed={seed}" if drawn and re.search(r"train\.py|vitals train", command) else command


Table = list[tuple[str, list[str]]]
"""A name and one cell for each run."""


def differences(runs: Sequence[RunRecord]) -> Table:
    """The settings whose values are not the same in all runs, with `–` where a run has none, or null."""
    of_runs = [settings(run.config) for run in runs]
    keys = dict.fromkeys(key for values in of_runs for key in values)
    rows = [(key, [str(values.get(key, "–")) for values in of_runs]) for key in keys]
    for key in ("commit", "dirty"):
        cells = [str((run.provenance.get("git") or {}).get(key, "–"))[:12] for run in runs]
        rows.append((f"git {key}", cells))
    return [(key, cells) for key, cells in rows if len(set(cells)) > 1]


def results(runs: Sequence[RunRecord]) -> Table:
    """How the runs ended: status, losses, accuracies, time; rows that no run knows are left out."""
    rows: Table = [("status", [str(run.status.get("status") or "–") for run in runs])]
    for title, tags, write, best in (
        ("best validation accuracy", ("accuracy/val", "accuracy/val_eval"), percent, np.nanmax),
        ("last validation accuracy", ("accuracy/val", "accuracy/val_eval"), percent, None),
        ("least validation loss", ("loss/val", "loss/val_eval"), number, np.nanmin),
        ("last validation loss", ("loss/val", "loss/val_eval"), number, None),
        ("last training accuracy", ("accuracy/train_eval", "accuracy/train"), percent, None),
        ("last training loss", ("loss/train", "loss/train_eval", "loss/train_step"), number, None),
        ("averaged weights, validation accuracy", ("val_average/accuracy",), percent, None),
        ("median update ratio at the end", ("update_ratio_summary/median",), number, None),
        ("samples a second", ("images_per_second",), number, np.nanmedian),
    ):
        curves = [run.curve(*tags) for run in runs]
        cells = []
        for curve in curves:
            if not np.isfinite(curve.values).any():
                cells.append("–")
            else:
                cells.append(write(float(best(curve.values)) if best else float(curve.values[-1])))
        rows.append((title, cells))
    bests = [_best(run.best) if run.best else ("", "–", "") for run in runs]
    rows.insert(1, ("best epoch", [epoch for _, epoch, _ in bests]))
    if any(chose_average(run.status) for run in runs):
        chosen = ["average" if chose_average(run.status) else "best epoch" for run in runs]
        rows.append(("weights chosen", chosen))
    finals = [run.status.get("metrics") or {} for run in runs]
    for name, write in (("accuracy", percent), ("loss", number)):
        known = [final.get(f"test/{name}") for final in finals]
        rows.append((f"test {name}", [write(value) for value in known]))
    seconds = [run.status.get("training_seconds") for run in runs]
    rows.append(("training time", [duration(float(value)) if value else "–" for value in seconds]))
    alarms = [str(sum(finding.alarming for finding in run.findings)) if run.findings else "–" for run in runs]
    rows.append(("warnings and faults", alarms))
    return [(title, cells) for title, cells in rows if set(cells) != {"–"}]
