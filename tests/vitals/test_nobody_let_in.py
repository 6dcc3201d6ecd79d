"""What a folder from elsewhere names is not run: targets, YAML, words of a sweep, names with brackets."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from vitals.errors import UserError
from vitals.findings import Finding, print_findings
from vitals.report.predictions import Predictions
from vitals.report.record import RunRecord
from vitals.runs.allowed_targets import names_to_trust, require_allowed
from vitals.runs.quoting import hydra_value
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.jobs.resume import words_of_sweep
from vitals.terminal import status_line

CONFIGS = Path(__file__).parents[2] / "configs"
REFUSED = """
    torch.load torch.serialization.load torch.hub.load torch.save torch.jit.load
    torch.package.PackageImporter torch.utils.model_zoo.load_url torch.utils.cpp_extension.load
    torch.utils.data.DataLoader torch.compile torch.nn torch.nn.modules.module.torch.load
    torch.nn.functional.torch.hub.load torch.optim.optimizer.torch.load torch.nn.Module.load_state_dict
    torch.nn.Module.__init__.__globals__ torch.nn.functional.__builtins__
    torch.nn.modules.module.register_module_forward_hook torch.nn.modules.module.warnings.sys.modules
    joblib.load joblib.numpy_pickle.load numpy.load numpy.save pickle.loads cloudpickle.loads
    yaml.unsafe_load pathlib.Path.write_text pathlib.Path.mkdir os.system posix.system os.mkdir
    subprocess.run subprocess.Popen builtins.exec builtins.eval builtins.open io.open runpy.run_path
    shutil.copy importlib.import_module pty.spawn hydra.utils.instantiate hydra.utils.call
    hydra.utils.get_method functools.partial operator.methodcaller logging.FileHandler
    logging.config.dictConfig sqlite3.connect tarfile.open zipfile.ZipFile timeit.timeit
    lightning.pytorch.callbacks.model_checkpoint.os.system lightning.pytorch.trainer.trainer.torch.load
    lightning.fabric.utilities.cloud_io._load lightning.pytorch.core.saving.pl_load
    lightning.pytorch.cli.LightningCLI lightning.pytorch.LightningModule.load_from_checkpoint
    lightning.pytorch.utilities.model_helpers.os.system
    lightning.fabric.strategies.launchers.subprocess_script.subprocess.Popen
    lightning.pytorch.demos.mnist_datamodule.MNISTDataModule torchvision.models.resnet.torch.hub.load
    torchvision.models._api.Weights torchvision.datasets.CIFAR10 torchmetrics.metric.torch.load
    torchmetrics.functional.image.lpips._LPIPS vitals.files.write_atomically vitals.files.write_json
    vitals.runs.run.os.mkdir vitals.runs.instantiate.locate vitals.runs.instantiate.made
    vitals.report.predictions.np.load vitals.runs.provenance.subprocess.run vitals.commands.train.main
    vitals.sweeps.jobs.queue.JobQueue vitals.runs.evaluate.evaluate os:system
    torch.nn.modules.module:torch.load os ..os 5
"""
ALLOWED = """
    torch.nn.Linear torch.nn.Sequential torch.nn.modules.linear.Linear torch.nn.init.kaiming_normal_
    torch.nn.functional.relu torch.nn.functional.gelu torch.optim.SGD torch.optim.AdamW timm.optim.Muon
    torch.optim.LBFGS torch.optim.lr_scheduler.ReduceLROnPlateau
    torch.optim.lr_scheduler.CosineAnnealingLR torchvision.models.resnet18 torchvision.models.ResNet
    torchvision.models.get_model torchvision.models.detection.fasterrcnn_resnet50_fpn lightning.Trainer
    lightning.pytorch.Trainer lightning.pytorch.callbacks.EarlyStopping
    lightning.pytorch.callbacks.LambdaCallback lightning.pytorch.loggers.CSVLogger
    lightning.pytorch.profilers.SimpleProfiler lightning.pytorch.strategies.DDPStrategy
    lightning.pytorch.plugins.environments.SLURMEnvironment
    lightning.pytorch.plugins.precision.MixedPrecision torchmetrics.MeanMetric
    torchmetrics.classification.MulticlassAccuracy torchmetrics.MetricCollection
    torchmetrics.functional.classification.multiclass_accuracy vitals.monitors.update_ratio.UpdateRatio
    vitals.runs.callbacks.checkpoints.Checkpoints vitals.runs.loggers.RunCSV
    vitals.runs.callbacks.tensorboard.RunTensorBoard vitals.runs.loggers.RunTrackio
    vitals.averaging.weight_average.WeightAverage vitals.checks.sanity_checks.SanityChecks
    vitals.checks.inputs.InputsCheck vitals.runs.callbacks.progress_bar.ProgressBar
    project.module.ImageClassifier project.data.data_module.ImageData
    project.networks.initialization.kaiming project.optim.schedules.cosine
    vitals.sweeps.jobs.backends.local vitals.sweeps.search.search.grid
"""


def refusal(config: object, folder: Path, *trust: str) -> str:
    with pytest.raises(UserError) as caught:
        require_allowed(config, folder / "config.yaml", trust)
    return str(caught.value)


def test_nothing_but_parts_of_a_training_is_built_of_a_folder(tmp_path: Path) -> None:
    for name in re.findall(r"\S+", REFUSED):
        said = refusal({"data": {"root": [{"_target_": name, "_partial_": True}]}}, tmp_path)
        assert "data.root[0]._target_" in said, said
        assert name in said
    for name in re.findall(r"\S+", ALLOWED):
        require_allowed({"data": {"_target_": name}}, tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"diagnosis": {"rules": ["os.system"]}}, "diagnosis.rules"),
        ({"checks": {"which": ["default", "antigravity.fly"]}}, "checks.which"),
        ({"callbacks": {"more": {"checks": ["antigravity.fly"]}}}, "callbacks.more.checks"),
        ({"network": {"_args_": [[{"a": {"_target_": "os.system"}}]]}}, "network._args_[0][0].a._target_"),
        ({"search": {"space": {"data._target_": "choice(os.system)"}}}, "search.space.data._target_"),
        ({"data": {"_target_": ["os.system"]}}, "data._target_"),
    ],
)
def test_wherever_it_is_named(tmp_path: Path, config: object, key: str) -> None:
    assert key in refusal(config, tmp_path)


def test_what_is_trusted_is_built_and_what_it_imports_is_not(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    assert "trust=joblib.load" in refusal({"data": {"_target_": "joblib.load"}}, tmp_path)
    for trust in ("joblib.load", "joblib"):
        require_allowed({"data": {"_target_": "joblib.load"}}, file, [trust])
    said = refusal({"data": {"_target_": "joblib.numpy_pickle.os.system"}}, tmp_path, "joblib")
    assert "posix.system" in said


def test_the_same_command_trusts_what_it_names_itself(tmp_path: Path) -> None:
    composed = {"data": {"_target_": "joblib.load"}, "network": {"_target_": "torch.nn.Linear"}}
    composed |= {"module": {"_target_": "project.module.ImageClassifier"}}
    assert names_to_trust(composed, tmp_path) == ["joblib.load"]


def test_ones_own_code_is_what_lies_outside_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, run = tmp_path / "my_nets", tmp_path / "logs" / "run"
    code = "import lightning, os\nfrom os import system\nsystem_too = system\n"
    code += "class Net(lightning.LightningModule): pass\ndef net(): pass\n"
    for folder in (mine, run, tmp_path / "logs", tmp_path / ".venv"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nets.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_nets.nets.Net", "my_nets.nets.net"):
        require_allowed({"network": {"_target_": name}}, run / "config.yaml")
    for name in (
        "logs.run.nets.net",
        "logs.nets.net",
        "my_nets.nets.os.system",
        "my_nets.nets.lightning.seed_everything",
    ):
        assert "trust=" in refusal({"network": {"_target_": name}}, run)
    assert "load_from_checkpoint" in refusal(
        {"a": {"_target_": "my_nets.nets.Net.load_from_checkpoint"}}, run
    )
    monkeypatch.chdir(run)  # whoever goes into a folder does not make its code his own
    monkeypatch.syspath_prepend(run)
    assert "trust=" in refusal({"network": {"_target_": "nets.net"}}, run)


def test_what_was_installed_into_a_folder_beside_ones_own_code_is_not_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `pip install --target` does, with a record of what it has put there."""
    for package in ("bought_nets", "own_nets"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("def net(): pass\n")
    record = tmp_path / "bought_nets-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("bought_nets/__init__.py,sha256=0,16\n")
    monkeypatch.syspath_prepend(tmp_path)
    require_allowed({"network": {"_target_": "own_nets.net"}}, tmp_path / "logs" / "config.yaml")
    assert "trust=" in refusal({"network": {"_target_": "bought_nets.net"}}, tmp_path / "logs")


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases"),
        ("a: &a {b: 1}\nc: {<<: [" + ",".join(["*a"] * 60_000) + "]}\n", "aliases"),
        ("a: &a [*a]\n", "itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "deep|depth"),
        ("a: " + "x" * 2**21, "larger"),
        ("name: ${oc.env:HOME}\n", "name is no plain value"),
        ("data: [{root: '${x}'}]\nx: [1]\n", "data.0.root is no plain value"),
        ("a: ${b}${b}\nb: x\n", "a is no plain value"),
        ("a: ${oc.decode:b}\n", "a is no plain value"),
        ("a: !!python/object/apply:os.getcwd []\n", "cannot be read"),
        ("- a\n", "holds no keys"),
    ],
)
def test_a_yaml_file_is_bounded(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(UserError, match=said):
        RunFolder(tmp_path).read_config()
    assert RunRecord.read(tmp_path).config == {} or "${" in text
    assert time.process_time() - start < 2


def test_aliases_of_a_plain_file_are_read(tmp_path: Path) -> None:
    provenance = "provenance: {command: 'x=${y}', choices: {data: d}}\n"
    (tmp_path / "config.yaml").write_text("a: &a {b: 1e-3}\nc: *a\nd: ${a.b}\n" + provenance)
    assert RunFolder(tmp_path).read_config() == {"a": {"b": 0.001}, "c": {"b": 0.001}, "d": 0.001}
    assert RunFolder(tmp_path).read_provenance()["choices"] == {"data": "d"}


@pytest.mark.parametrize(
    "word",
    [
        "data._target_=os.system",
        "+data={_target_:os.system}",
        "optimizer._target_=torch.optim.SGD,os.system",
        "++callbacks.x={a:[{_target_:os.system}]}",
        "diagnosis.rules=[os.system]",
        "search.space={data._target_:os.system}",
        "launcher.setup=[reboot]",
        "launcher._target_=os.system",
        "hydra.job_logging.handlers.x={(): os.system}",
        "+hydra.callbacks.x._target_=os.system",
        "hydra.job.env_set.X=1",
        "hydra.searchpath=[file://FOLDER]",
        "--config-path=FOLDER",
        "--config-name=../FOLDER/evil",
        "diagnosis.rules=[antigravity]",
        "--experimental-rerun=FOLDER/x.pickle",
        "name=${oc.env:HOME}",
    ],
)
def test_the_words_of_a_sweep_run_nothing(tmp_path: Path, word: str) -> None:
    words = ["optimizer.lr=0.1,0.2", word.replace("FOLDER", str(tmp_path))]
    (tmp_path / "sweep.json").write_text(json.dumps({"words": words}))
    with pytest.raises(UserError, match="trust="):
        words_of_sweep([f"resume_sweep={tmp_path}"], CONFIGS)


def test_the_words_of_ones_own_sweep_are_taken(tmp_path: Path) -> None:
    words = ["optimizer.lr=0.1,0.2", "optimizer._target_=torch.optim.SGD", "data=digits", "seed=range(3)"]
    words += [
        "hydra.sweep.subdir=x",
        f"hydra.searchpath=[file://{CONFIGS},pkg://vitals.configs]",
        "trust=[os]",
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"words": [*words, "data._target_=joblib.load"]}))
    taken = words_of_sweep([f"resume_sweep={tmp_path}", "trust=[joblib]"], CONFIGS)
    assert set(words) - set(taken) == {"trust=[os]"}
    assert "trust=[joblib]" in taken
    assert SweepFolder(tmp_path).record.is_file()


@pytest.mark.parametrize("shown", [str, hydra_value])
def test_a_sweep_in_a_folder_of_any_name_is_found(tmp_path: Path, shown: Callable[[Path], str]) -> None:
    folder = tmp_path / "größe [1] 50%=x, it's"
    folder.mkdir()
    (folder / "sweep.json").write_text('{"words": ["seed=0,1"]}')
    *words, place = words_of_sweep([f"resume_sweep={shown(folder)}"], CONFIGS)
    assert words == ["seed=0,1"]
    assert OverridesParser.create().parse_override(place).value() == str(folder)


def test_nothing_is_written_through_a_link_of_a_folder_from_elsewhere(tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    (run / "checkpoints").mkdir(parents=True)
    mine.write_text("mine")
    (run / "config.yaml").write_text("a: 1\n")
    (run / "status.json").write_text('{"status": "running"}')
    (run / "checkpoints" / "best.ckpt").symlink_to("last.ckpt")
    RunFolder(run).require_free()
    (run / ".lock").symlink_to(mine)
    assert RunFolder(run).read_status()["status"] == "running"  # nobody can know
    with pytest.raises(UserError, match="lock leads out of its folder, to "):
        RunFolder(run).require_free()
    assert mine.read_text() == "mine"


def predictions(**parts: object) -> dict[str, object]:
    images = np.zeros((1, 3, 4, 4), np.uint8)
    whole = {"probabilities": np.full((3, 2), 0.5, np.float16), "labels": np.array([0, 1, 0])}
    return {**whole, "classes": np.array(["a", "b"]), "worst": np.array([2]), "worst_images": images, **parts}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"labels": np.array([0, 1, 2])}, "labels are not from 0 to 1"),
        ({"labels": np.array([0, 1, -1])}, "labels"),
        ({"worst": np.array([3])}, "worst are not from 0 to 2"),
        ({"classes": np.array([{}, {}], dtype=object)}, "pickle"),
        ({"probabilities": np.zeros(3)}, "cannot be read"),
        ({"worst_images": np.zeros((1, 3, 2**10, 2**10), np.uint8)}, "unpacks to more than"),
    ],
)
def test_predictions_from_elsewhere_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, object], said: str
) -> None:
    monkeypatch.setattr("vitals.report.predictions.LARGEST", 2**20)
    np.savez_compressed(tmp_path / "predictions.npz", **predictions(**parts))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        Predictions.load(tmp_path / "predictions.npz")


def test_brackets_in_names_are_no_markup() -> None:
    odd = "a[/b] [red] [link=x]"
    out = io.StringIO()
    print_findings(
        [Finding("loss-at-chance", "warn", odd, odd)], Console(file=out, width=400, force_terminal=False)
    )
    assert odd in out.getvalue()
    terminal = Console(file=io.StringIO(), force_terminal=True)
    terminal.file.isatty = lambda: True  # type: ignore[method-assign]
    with status_line(odd, terminal) as say:
        say(odd)
