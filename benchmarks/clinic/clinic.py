"""Fault clinic: planted training faults, and a runner that scores diagnostic tools on them.

    python benchmarks/clinic/clinic.py --tool vitals --data DIR --out results.json

README.md beside this file says what the clinic measures and how. This module holds what the cases
are built from (`Images`, `Classifier`, `Session`, `Case`, `CaseBook`), what a tool is to the clinic
(`Finding`, `Tool`), and the runner.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from vitals.causes import CAUSES
from vitals.findings import LEVELS

HERE = Path(__file__).resolve().parent
NUM_CLASSES = 10
TRAIN_PER_CLASS = 400
VAL_PER_CLASS = 100
TIME_LIMIT = 300.0
FIRST_SEED = 20
PRELOADED = ["torch", "torch._dynamo", "lightning", "lightning.pytorch.loggers"]

ALARMS = frozenset({"warn", "fail"})


# ------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Images:
    """The clinic's subset of CIFAR-10: uint8 images [N, 3, 32, 32] and int64 labels, by class."""

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor


def decode_split(folder: Path, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    images, labels = [], []
    class_folders = sorted(path for path in folder.iterdir() if path.is_dir())
    for label, class_folder in enumerate(class_folders):
        for path in sorted(class_folder.iterdir())[:per_class]:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
            labels.append(label)
    return np.stack(images), np.array(labels, dtype=np.int64)


def load_images(data: Path) -> Images:
    """The subset, from an unpacked archive (`DIR/train/<class>/*.jpg`, `DIR/test/...`) or its cache."""
    data = data / "cifar10" if (data / "cifar10").is_dir() else data
    cache = data.parent / f"{data.name}-clinic-{TRAIN_PER_CLASS}-{VAL_PER_CLASS}.npz"
    if not cache.exists():
        if not (data / "train").is_dir() or not (data / "test").is_dir():
            raise SystemExit(
                f"--data {data} holds no folders train and test: name the unpacked CIFAR-10 archive"
            )
        train_x, train_y = decode_split(data / "train", TRAIN_PER_CLASS)
        val_x, val_y = decode_split(data / "test", VAL_PER_CLASS)
        np.savez(cache, train_x=train_x, train_y=train_y, val_x=val_x, val_y=val_y)
    with np.load(cache) as arrays:
        return Images(**{name: torch.from_numpy(arrays[name]) for name in arrays.files})


PIXEL_MEAN = torch.tensor([0.4913, 0.4821, 0.4465]).view(3, 1, 1)
PIXEL_STD = torch.tensor([0.2452, 0.2428, 0.2606]).view(3, 1, 1)


def normalized(images: Tensor) -> Tensor:
    """Pixels with mean 0 and standard deviation 1 in each channel."""
    return (images.float() / 255 - PIXEL_MEAN) / PIXEL_STD


def loader(x: Tensor, y: Tensor, batch_size: int, shuffle: bool = False) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)


# ------------------------------------------------------------------------------------------ cases


class Classifier(L.LightningModule):
    """An ordinary LightningModule; a case whose fault is in the steps overrides the method it breaks."""

    net: Any  # a module; some cases take it to pieces

    def __init__(self, net: nn.Module, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.measure(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.measure(batch, "val")

    def measure(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = self.loss(logits, y)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        values = {f"{stage}/loss": loss, f"{stage}/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


@dataclass
class Session:
    """One training run: what a person would hand to `Trainer.fit`."""

    module: L.LightningModule
    train_loader: DataLoader
    val_loader: DataLoader
    trainer_kwargs: dict[str, Any] = field(default_factory=dict)


def changed(session: Session, setting: dict[str, float]) -> Session:
    """The run with another learning rate `lr` of its fastest parameter group, another `weight_decay`, or
    another `batch_size`, with which it takes as many steps as before."""
    configure = session.module.configure_optimizers

    def configure_optimizers() -> Any:
        configured: Any = configure()
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        schedule = configured["lr_scheduler"]["scheduler"] if isinstance(configured, dict) else None
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        share = setting["lr"] / max(rates) if "lr" in setting else 1.0
        for group in optimizer.param_groups:
            for name in {"lr", "initial_lr"} & set(group):
                group[name] *= share
            group["weight_decay"] = setting.get("weight_decay", group["weight_decay"])
        if schedule is not None:
            schedule.base_lrs = [rate * share for rate in schedule.base_lrs]
        return configured

    if {"lr", "weight_decay"} & set(setting):
        session.module.configure_optimizers = configure_optimizers  # type: ignore[method-assign]
    if "batch_size" in setting:
        before = session.train_loader
        shuffle = not isinstance(before.sampler, SequentialSampler)
        batches = min(len(before), session.trainer_kwargs.pop("limit_train_batches", len(before)))
        session.train_loader = DataLoader(before.dataset, int(setting["batch_size"]), shuffle)
        steps = batches * session.trainer_kwargs["max_epochs"]
        session.trainer_kwargs["max_epochs"] = math.ceil(steps / len(session.train_loader))
    return session


@dataclass(frozen=True)
class Case:
    """`build(images, fault)` gives the run with its fault, or, with fault=False, its healthy twin.

    A healthy case has no causes and ignores `fault`.
    """

    name: str
    story: str
    causes: frozenset[str]
    build: Callable[[Images, bool], Session]

    @property
    def sick(self) -> bool:
        return bool(self.causes)


class CaseBook(list[Case]):
    """The cases of one file, each registered by decorating its build function."""

    def sick(self, name: str, *causes: str, story: str) -> Callable:
        unknown = {cause for cause in causes if cause not in CAUSES or not CAUSES[cause].fault}
        assert causes, f"{name}: a sick case has a cause"
        assert not unknown, f"{name}: unknown causes {unknown}"

        def register(build: Callable[[Images, bool], Session]) -> Callable[[Images, bool], Session]:
            self.append(Case(name, story, frozenset(causes), build))
            return build

        return register

    def healthy(self, name: str, story: str) -> Callable:
        def register(build: Callable[[Images], Session]) -> Callable[[Images], Session]:
            self.append(Case(name, story, frozenset(), lambda images, fault: build(images)))
            return build

        return register


# ------------------------------------------------------------------------------------------ tools


@dataclass(frozen=True)
class Finding:
    """One verdict of a tool: a cause code (or the tool's own word, where none fits) and its level."""

    cause: str
    level: str
    message: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level!r} is none of {', '.join(LEVELS)}")


class Tool(Protocol):
    """How the clinic drives a tool: callbacks to train with, then the findings, most important first."""

    def callbacks(self, session: Session) -> list[Callback]: ...

    def findings(self, trainer: L.Trainer) -> list[Finding]: ...


class NoTool:
    """The plain run: nothing watched, nothing found."""

    def callbacks(self, session: Session) -> list[Callback]:
        return []

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        return []


class Vitals:
    """`vitals.diagnostics()` gives the callbacks; the run's findings.json gives the findings."""

    def __init__(self) -> None:
        from vitals import diagnostics  # imports all of it, which `--tool none` is to do without

        self.diagnostics = diagnostics

    def callbacks(self, session: Session) -> list[Callback]:
        return list(self.diagnostics())

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        folders = [trainer.default_root_dir, trainer.log_dir or trainer.default_root_dir]
        for path in (Path(folder) / "findings.json" for folder in folders):
            if path.exists():
                entries = json.loads(path.read_text())
                return [
                    Finding(entry["cause"], entry["level"], entry.get("message", "")) for entry in entries
                ]
        raise FileNotFoundError(f"the run left no findings.json in {' or '.join(map(str, folders))}")


TOOLS: dict[str, Callable[[], Tool]] = {"none": NoTool, "vitals": Vitals}


# ----------------------------------------------------------------------------------------- runner


@dataclass
class Outcome:
    """What came of one case under one tool."""

    name: str
    causes: list[str]
    findings: list[Finding] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Processor seconds of training and diagnosis; wall-clock time would measure the machine's other work."""
    overhead: float | None = None
    error: str | None = None
    twin: Outcome | None = None
    """The same run without its fault, where it was asked for."""
    fits: bool = True
    """Whether the case can be brought into the form that was asked for."""

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Outcome:
        """What `asdict` and JSON made of an outcome."""
        findings = [Finding(**finding) for finding in entry["findings"]]
        twin = cls.read(entry["twin"]) if entry["twin"] else None
        return cls(**(entry | {"findings": findings, "twin": twin}))

    def alarms(self) -> list[str]:
        """The causes found at level warn or worse, in the tool's order, each once."""
        return list(dict.fromkeys(finding.cause for finding in self.findings if finding.level in ALARMS))


@dataclass(frozen=True)
class Job:
    """One run to make, in words a fresh process can act on."""

    case_file: str
    case_name: str
    tool: str
    tool_file: str | None
    data: str
    twin: bool = False
    seed: int = FIRST_SEED
    folder: str | None = None
    """Where the run's files stay; None throws them away."""
    setting: dict[str, float] | None = None
    """What a remedy names, to be changed in the run first."""
    form: str | None = None
    """The form of `forms.py` that the run is brought into; None leaves it as it was written."""


class DoesNotFit(Exception):
    """The case has a form of its own where another one was asked for."""


def import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"clinic_{path.parent.name}_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load_cases(path: Path) -> CaseBook:
    return import_file(path).CASES


def load_forms() -> dict[str, Callable[[Session], None]]:
    return import_file(HERE / "forms.py").FORMS


def make_tool(name: str, tool_file: str | None) -> Tool:
    tools = TOOLS | (import_file(Path(tool_file)).TOOLS if tool_file else {})
    if name not in tools:
        raise SystemExit(f"no tool {name!r}; there are {', '.join(tools)}")
    return tools[name]()


def version_of(tool: str) -> str:
    """Of the package that has the tool's name; empty where there is none."""
    try:
        return version(tool)
    except PackageNotFoundError:
        return ""


def run_case(case: Case, tool: Tool, images: Images, job: Job, folder: str) -> Outcome:
    """Train the case once with the tool watching. Must run in a process of its own."""
    L.seed_everything(job.seed, verbose=False)
    outcome = Outcome(case.name, [] if job.twin else sorted(case.causes))
    session = changed(case.build(images, not job.twin), job.setting or {})
    if job.form:
        load_forms()[job.form](session)
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=tool.callbacks(session),
        default_root_dir=folder,
        logger=CSVLogger(folder),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **session.trainer_kwargs,
    )
    start = time.process_time()
    try:
        trainer.fit(session.module, session.train_loader, session.val_loader)
    except Exception:  # a run may die of its fault or of the tool: both are kept as the outcome
        outcome.error = traceback.format_exc(limit=-4)
    outcome.findings = tool.findings(trainer)
    outcome.seconds = time.process_time() - start
    outcome.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return outcome


def work(job: Job, result: str) -> None:
    """The body of a case's process: run the job and leave the outcome as JSON."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    case = next(case for case in load_cases(Path(job.case_file)) if case.name == job.case_name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = job.folder or temporary
        try:
            tool = make_tool(job.tool, job.tool_file)
            outcome = run_case(case, tool, load_images(Path(job.data)), job, folder)
        except DoesNotFit:
            outcome = Outcome(case.name, sorted(case.causes), fits=False)
        except Exception:
            outcome = Outcome(case.name, sorted(case.causes), error=traceback.format_exc())
    Path(result).write_text(json.dumps(asdict(outcome)))


def run_in_process(job: Job, causes: Iterable[str], time_limit: float) -> Outcome:
    """The outcome of the job, run in its own process so that no run can harm the next."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "outcome.json"
        process = context.Process(target=work, args=(job, str(result)))
        process.start()
        process.join(time_limit)
        if process.is_alive():
            process.kill()
            process.join()
            return Outcome(job.case_name, sorted(causes), error=f"not done within {time_limit:.0f} s")
        if not result.exists():
            return Outcome(
                job.case_name, sorted(causes), error=f"the process ended with code {process.exitcode}"
            )
        return Outcome.read(json.loads(result.read_text()))


@dataclass(frozen=True)
class Score:
    sick: int
    detected: int
    named: int
    anywhere: int
    wrong_causes: float
    """Alarms on sick runs that name a cause the case does not have, per sick run."""
    healthy: int
    false_alarms: int
    twins: int
    twin_alarms: int
    overhead: float | None
    """Mean processor seconds added to a run."""
    errors: int


def score(outcomes: Sequence[Outcome]) -> Score:
    sick = [outcome for outcome in outcomes if outcome.causes]
    healthy = [outcome for outcome in outcomes if not outcome.causes]
    twins = [outcome.twin for outcome in outcomes if outcome.twin]
    overheads = [outcome.overhead for outcome in outcomes if outcome.overhead is not None]
    wrong = sum(cause not in outcome.causes for outcome in sick for cause in outcome.alarms())
    return Score(
        sick=len(sick),
        detected=sum(bool(outcome.alarms()) for outcome in sick),
        named=sum(bool(set(outcome.alarms()[:2]) & set(outcome.causes)) for outcome in sick),
        anywhere=sum(bool(set(outcome.alarms()) & set(outcome.causes)) for outcome in sick),
        wrong_causes=wrong / max(1, len(sick)),
        healthy=len(healthy),
        false_alarms=sum(bool(outcome.alarms()) for outcome in healthy),
        twins=len(twins),
        twin_alarms=sum(bool(twin.alarms()) for twin in twins),
        overhead=sum(overheads) / len(overheads) if overheads else None,
        errors=sum(outcome.error is not None for outcome in outcomes),
    )


def line(outcome: Outcome) -> str:
    alarms = outcome.alarms()
    if outcome.causes:
        hit = bool(set(alarms[:2]) & set(outcome.causes))
        verdict = "named" if hit else "detected" if alarms else "missed"
    else:
        verdict = "false alarm" if alarms else "silent"
    tail = outcome.error.strip().splitlines()[-1] if outcome.error else ", ".join(alarms)
    text = f"{outcome.name:28} {figures(outcome)} {outcome.seconds:6.1f} s  {verdict:11} {tail}"
    if outcome.twin:
        text += f"\n{'    its twin':28} {figures(outcome.twin)} {'':20} {', '.join(outcome.twin.alarms())}"
    return text


def figures(outcome: Outcome) -> str:
    """Validation accuracy, validation loss, training loss."""
    names = ("val/acc", "val/loss", "train/loss")
    accuracy, val_loss, train_loss = (outcome.metrics.get(name, math.nan) for name in names)
    return f"{accuracy:6.3f} {val_loss:9.3f} {train_loss:9.3f}"


def examine(arguments: argparse.Namespace, cases: Sequence[Case], case_file: Path) -> list[Outcome]:
    """Run every case under the tool, its twin where asked, and no tool where the overhead needs it."""

    def run(case: Case, tool: str, seed: int, twin: bool = False) -> Outcome:
        tool_file = str(arguments.tools) if arguments.tools and tool != "none" else None
        folder = None
        if arguments.keep and tool != "none":
            name = case.name + "-twin" * twin + f"-{seed}" * (arguments.seeds > 1)
            folder = str(arguments.keep / name)
        job = Job(
            *(str(case_file), case.name, tool, tool_file, str(arguments.data)),
            *(twin, seed, folder),
            form=arguments.form,
        )
        return run_in_process(job, () if twin else case.causes, arguments.time_limit)

    baseline = {}
    if arguments.baseline:
        baseline = {
            entry["name"]: entry["seconds"] for entry in json.loads(arguments.baseline.read_text())["cases"]
        }
    outcomes = []
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    for case, seed in product(cases, seeds):
        outcome = run(case, arguments.tool, seed)
        if not outcome.fits:
            continue
        if arguments.twins and case.sick:
            outcome.twin = run(case, arguments.tool, seed, twin=True)
        if arguments.tool != "none":
            if case.name not in baseline:
                baseline[case.name] = run(case, "none", seed).seconds
            outcome.overhead = outcome.seconds - baseline[case.name]
        outcomes.append(outcome)
        print(line(outcome), flush=True)
    return outcomes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a diagnostic tool on planted training faults.")
    parser.add_argument("--tool", default="none", help="none, vitals, or a tool defined in --tools")
    parser.add_argument(
        "--tools", type=Path, help="a Python file whose TOOLS maps further tool names to tools"
    )
    parser.add_argument(
        "--cases", default="dev", help="dev (cases.py beside this file) or the path of a case file"
    )
    parser.add_argument("--form", choices=load_forms(), help="run each case in another form, where it fits")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these cases")
    parser.add_argument("--data", type=Path, help="the unpacked CIFAR-10 archive")
    parser.add_argument(
        "--baseline", type=Path, help="results of --tool none, to save running each case twice"
    )
    parser.add_argument("--out", type=Path, help="write the outcomes and the score here as JSON")
    parser.add_argument(
        "--keep", type=Path, help="keep what each run writes in a folder of its own in this one"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="run each case with N seeds, from 20 on"
    )
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT, help="seconds a case may take")
    parser.add_argument("--twins", action="store_true", help="run each sick case's healthy twin as well")
    parser.add_argument("--list", action="store_true", help="print the cases and leave")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    case_file = HERE / "cases.py" if arguments.cases == "dev" else Path(arguments.cases).resolve()
    cases = [case for case in load_cases(case_file) if not arguments.only or case.name in arguments.only]
    if arguments.list:
        for case in cases:
            print(f"{case.name:28} {', '.join(sorted(case.causes)) or 'healthy'}\n    {case.story}")
        return
    if arguments.data is None:
        raise SystemExit("--data DIR is needed: the unpacked CIFAR-10 archive")
    make_tool(arguments.tool, arguments.tools and str(arguments.tools))
    load_images(arguments.data)
    outcomes = examine(arguments, cases, case_file)
    total = score(outcomes)
    print(
        f"\n{arguments.tool}: detected {total.detected}/{total.sick}, named {total.named}/{total.sick}, "
        f"anywhere {total.anywhere}/{total.sick}, wrong causes {total.wrong_causes:.1f} per sick run, "
        f"false alarms {total.false_alarms}/{total.healthy}, errors {total.errors}"
        + (f", alarms on twins {total.twin_alarms}/{total.twins}" if total.twins else "")
        + (f", overhead {total.overhead:.1f} s a run" if total.overhead is not None else "")
    )
    sys.path.insert(0, str(HERE.parents[1]))
    from benchmarks.machine import where_and_when  # this file is run by its path, from any folder

    measured = where_and_when()
    print(f"measured on {measured}")
    if arguments.out:
        result = {
            "tool": arguments.tool,
            "version": version_of(arguments.tool),
            "file": case_file.name,
            "measured": measured,
            "score": asdict(total),
            "cases": [asdict(outcome) for outcome in outcomes],
        }
        arguments.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    # Case files import this file as `clinic`; run that same module, so that its classes exist once.
    sys.path.insert(0, str(HERE))
    import clinic

    clinic.main()
