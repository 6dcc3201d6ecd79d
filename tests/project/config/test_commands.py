"""What is answered to a command line, before torch is imported and before anything is written."""

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from project.schema import Experiment
from vitals.command_line import CONFIGS, Command, answers_mistakes, check_command_line, run_command
from vitals.errors import UserError
from vitals.runs.config.overrides import Overrides, groups, search_path
from vitals.runs.config.schema import Evaluation
from vitals.runs.config.validation import check as check_values
from vitals.runs.config.validation import check_run
from vitals.runs.instantiate import locate

ROOT = Path(__file__).parents[3]
GROUPS = groups(search_path(ROOT / "configs", "train"))


def check(command, name="train", check_one=None, folder=ROOT / "configs"):
    """All configurations of a command, checked; with several values for a key as `--multirun` takes them."""
    configs = list(Overrides(folder, name, shlex.split(command)).composed())
    for config in configs:
        (check_one or partial(check_run, Experiment))(config)
    return configs


RATE = "a number greater than 0"
COUNT = "a whole number of 1 or more"
BELOW_ONE = "a number from 0 up to, but not including, 1"
BETWEEN = "a number between 0 and 1, both excluded"
SEED = "a whole number from 0 to 4294967295"

WRONG_NAMES = {
    # groups, choices and keys: what was written, and what is nearest
    "optimizer=rmspropp": ("optimizer=rmspropp", "did you mean rmsprop?"),
    "optimizer=Adam": ("optimizer=Adam", "did you mean adam?"),
    "data=cifar": ("data=cifar ", "did you mean cifar10 or cifar100?"),
    "network=resnet": ("network=resnet ", "did you mean resnet18?"),
    "optimizer=xyz": ("optimizer=xyz", "valid are adadelta, adagrad, adam"),
    "debug=fats": ("debug=fats", "did you mean fast?"),
    "network.initialization=gausian": ("initialization=gausian", "did you mean gaussian?"),
    "optimizer.lrr=1": ("optimizer.lrr", "did you mean lr?"),
    "optimizer=adam optimizer.momentum=0.9": (
        "optimizer.momentum",
        "optimizer=momentum optimizer.momentum=0.9 or",
    ),
    "optimizer.lr.x=1": ("optimizer.lr.x", "'optimizer.lr'"),
    "network.initialization=kaiming network.initialization.std=1": (
        "network.initialization.std",
        "network/initialization=gaussian network.initialization.std=1?",
    ),
    "width=64": ("width", "did you mean network=mlp network.width=64?"),
    "logger.wandb.project=x": ("'logger' has no", "did you mean logger=wandb logger.wandb.project=x?"),
    "schedule=none": ("schedule=none", "did you mean constant?"),
    "optimizer = adam seed=1": ("'optimizer'", "did you mean optimizer=adam, without spaces around =?"),
    "metric=accuracy/val": ("metric=accuracy/val", "keys of its own, metric.name, metric.mode"),
    "data=images/x": ("data=images/x", "data.root=<folder>"),
    "pretrained=true": ("pretrained", "leave it out"),
    "trainer.track_grad_norm=2": ("trainer.track_grad_norm", "nor has Lightning's Trainer"),
    "optimzer=adam": ("optimzer", "did you mean optimizer"),
    "sed=0": ("sed", "did you mean seed"),
    "optimizr.lr=0.1": ("optimizr", "did you mean optimizer"),
    "trainer.max_epoch=3": ("trainer.max_epoch", "did you mean trainer.max_epochs=3?"),
    "+data.btch_size=3": ("data.btch_size", "did you mean batch_size"),
    "optimizer=nesterov ~optimizer.momentun": ("optimizer.momentun", "did you mean momentum?"),
    "optimizer=adam,rmspropp": ("optimizer=rmspropp", "did you mean rmsprop?"),
    "rmsprop": ("'rmsprop'", "optimizer=rmsprop"),
    "hello": ("'hello' is no key=value", "optimizer.lr=0.01"),
    "optimizer.lr=0.1)": ("optimizer.lr=0.1)",),
}

WRONG_COMMANDS = {
    "optimizer.lr=abc": ("optimizer.lr=abc", RATE),
    "optimizer.lr=-1": ("optimizer.lr=-1", RATE),
    "optimizer.lr=${nothing}": ("optimizer.lr", "nothing"),
    "~optimizer.lr": ("optimizer.lr is missing",),
    "optimizer=null": ("optimizer=null", "adam"),
    "trainer.max_epochs=ten": ("trainer.max_epochs=ten", COUNT),
    "trainer.max_epochs=0": ("trainer.max_epochs=0", COUNT),
    "trainer.max_epochs=1e1": ("trainer.max_epochs=10.0", "write trainer.max_epochs=10."),
    "trainer.max_time=60": ("trainer.max_time=60", "DD:HH:MM:SS"),
    "name=1": ("name=1", "write \"name='1'\"."),
    "seed=[0,1]": ("seed=[0, 1]", "with -m several: seed=0,1."),
    "data=image_folder data.root=/x/y": ("data.root=/x/y is not a folder",),
    "data.root=/x/y": ("data.root=/x/y is not a folder", "or make it, and they are downloaded to it"),
    "data.batch_size=0": ("data.batch_size=0", COUNT),
    "seed=-1": ("seed=-1", SEED, "or null"),
    "network=convnet network.dropout=1.5": ("network.dropout=1.5", BELOW_ONE),
    # in a sweep, whichever of the values is wrong
    "optimizer.lr=0.1,abc": ("optimizer.lr=abc", RATE),
    "optimizer.lr=choice(0.1,0)": ("optimizer.lr=0", RATE),
    "optimizer.lr=interval(-1,1)": ("optimizer.lr=-1.0", RATE),
    "optimizer=momentum optimizer.momentum=interval(0.5,1.5)": ("optimizer.momentum=1.5", BELOW_ONE),
    "seed=range(-1,3)": ("seed=-1", SEED),
    "optimizer=sgd,adam optimizer.lr=0.1,-1": ("optimizer.lr=-1", RATE),
    "schedule.warmup_epochs=0,3 trainer.max_epochs=2,5": ("schedule.warmup_epochs=3", "trainer.max_epochs=2"),
    "schedule.warmup_epochs=0,3 trainer.max_epochs=5,2": ("schedule.warmup_epochs=3", "trainer.max_epochs=2"),
}

WRONG_VALUES = {
    "optimizer.lr=0": ("optimizer.lr=0", RATE),
    "optimizer.lr=nan": ("optimizer.lr=nan", RATE),
    "optimizer.lr=null": ("optimizer.lr=null", RATE),
    "optimizer.weight_decay=-0.1": ("optimizer.weight_decay=-0.1", "a number of 0 or more"),
    "optimizer=momentum optimizer.momentum=1": ("optimizer.momentum=1", BELOW_ONE),
    "optimizer.decay_bias_and_norm=maybe": ("optimizer.decay_bias_and_norm=maybe", "true or false"),
    "optimizer=adam optimizer.betas=[0.9]": ("optimizer.betas=[0.9]", "two numbers from 0 up to"),
    "optimizer=adam optimizer.betas=[0.9,1.0]": ("optimizer.betas[1]=1.0", "but not including, 1"),
    "trainer.max_epochs=2.5": ("trainer.max_epochs=2.5", COUNT),
    "trainer.accelerator=gpuu": ("trainer.accelerator=gpuu", "did you mean gpu?"),
    "trainer.precision=fp16": ("trainer.precision=fp16", "bf16-mixed"),
    "trainer.devices=0": ("trainer.devices=0", COUNT),
    "trainer.limit_train_batches=1.5": (
        "trainer.limit_train_batches=1.5",
        "share greater than 0 and up to 1",
    ),
    "trainer.gradient_clip_val=0": ("trainer.gradient_clip_val=0", RATE, "or null"),
    "trainer.deterministic=maybe": ("trainer.deterministic=maybe", "true, false or warn"),
    "data.limit=0": ("data.limit=0", COUNT, "or null"),
    "data.validation_fraction=1": ("data.validation_fraction=1", BETWEEN),
    "data.crop_padding=-1": ("data.crop_padding=-1", "a whole number of 0 or more"),
    "data.split_seed=-1": ("data.split_seed=-1", SEED),
    "seed=4294967296": ("seed=4294967296", SEED),
    "module.label_smoothing=1": ("module.label_smoothing=1", BELOW_ONE),
    "compile=yess": ("compile=yess", "true or false"),
    "network.norm=btch": ("network.norm=btch", "did you mean batch?"),
    "network.activation=relv": ("network.activation=relv", "did you mean relu"),
    "network=convnet network.widths=[8,0]": ("network.widths[1]=0", "whole numbers of 1 or more"),
    "network=convnet network.widths=[]": ("network.widths=[]", "whole numbers of 1 or more"),
    "network=vgg network.stages=[[8],[0]]": ("network.stages[1][0]=0", "whole numbers of 1 or more"),
    "network.initialization=gaussian network.initialization.std=0": ("network.initialization.std=0", RATE),
    "checks.which=[default,wirin]": ("checks.which[1]=wirin", "did you mean wiring?"),
    "checks.which=[3]": ("checks.which[0]=3", "a list of names of checks"),
    "schedule.warmup_epochs=-1": ("schedule.warmup_epochs=-1", "a number of 0 or more"),
    "schedule=step schedule.every=0": ("schedule.every=0", COUNT),
    "schedule=step schedule.factor=2": ("schedule.factor=2", BETWEEN),
    "schedule=one_cycle schedule.rise=1": ("schedule.rise=1", BETWEEN),
    "schedule=plateau schedule.patience=-1": ("schedule.patience=-1", "a whole number of 0 or more"),
    "momentum_schedule=ramp momentum_schedule.end=1": ("momentum_schedule.end=1", BELOW_ONE),
}

WRONG_TOGETHER = {
    "schedule.warmup_epochs=30 trainer.max_epochs=5": (
        "schedule.warmup_epochs=30",
        "at most trainer.max_epochs=5",
    ),
    "schedule.warmup_epochs=10 trainer.max_epochs=5 schedule.epochs=9": (
        "schedule.warmup_epochs=10",
        "schedule.epochs=9",
    ),
    "schedule.epochs=5 trainer.max_epochs=9": ("schedule.epochs=5", "at least trainer.max_epochs=9"),
    "momentum_schedule=ramp momentum_schedule.epochs=9 trainer.max_epochs=5": (
        "momentum_schedule.epochs=9",
        "at most trainer.max_epochs=5",
    ),
    "momentum_schedule=ramp optimizer=adagrad": ("momentum_schedule=ramp", "Adagrad has none"),
    "optimizer=nesterov optimizer.momentum=0": ("optimizer.nesterov=true", "optimizer.momentum"),
    "optimizer=lbfgs": ("optimizer=lbfgs", "data=cifar10", "50,000", "data=digits", "data.limit=5000"),
    "optimizer=lbfgs data.limit=6000": ("optimizer=lbfgs", "data.limit=5000"),
    "optimizer=lbfgs data=digits trainer.accumulate_grad_batches=2": (
        "trainer.accumulate_grad_batches=2",
        "must be 1",
    ),
    "optimizer=lbfgs data=digits trainer.gradient_clip_val=1": (
        "trainer.gradient_clip_val=1",
        "must be null",
    ),
    "data=digits data.root=images": ("data.root=images", "leave it out"),
    "data.root=null": ("data.root=null", "data=cifar10"),
    "data=image_folder": ("data.root=null", "data=image_folder"),
    "data.crop_padding=32": ("data.crop_padding=32", "less than the images' 32 pixels"),
    "data=digits data.image_size=8 data.crop_padding=8": ("data.crop_padding=8", "8 pixels"),
    "trainer=cpu trainer.precision=16-mixed": ("trainer.precision=16-mixed", "needs a GPU", "bf16-mixed"),
}


def assert_one_sentence_with(words, message):
    assert not [word for word in words if word not in message], message
    assert "\n" not in message
    assert "Input should" not in message  # pydantic's words, which name no range
    assert "valid are ." not in message


@pytest.mark.parametrize(
    ("command", "words"),
    [*WRONG_NAMES.items(), *WRONG_COMMANDS.items()],
    ids=[*WRONG_NAMES, *WRONG_COMMANDS],
)
def test_a_wrong_command_is_answered_by_a_sentence_with_what_was_written_and_what_is_right(command, words):
    with pytest.raises(UserError) as error:
        check(command)
    assert_one_sentence_with(words, str(error.value))


@pytest.fixture
def configured(compose):
    """`configured("optimizer=adam optimizer.lr=1")`: as the command has it, from choices composed once."""

    def configured(command):
        words = command.split()
        choices = [word for word in words if word.partition("=")[0].replace(".", "/") in GROUPS]
        config = compose(*choices)
        config.merge_with_dotlist([word for word in words if word not in choices])
        return config

    return configured


@pytest.mark.parametrize(
    ("command", "words"),
    [*WRONG_VALUES.items(), *WRONG_TOGETHER.items()],
    ids=[*WRONG_VALUES, *WRONG_TOGETHER],
)
def test_a_wrong_value_is_answered_by_a_sentence_with_key_value_and_range(configured, command, words):
    config = configured(command)
    with pytest.raises(UserError) as error:
        check_run(Experiment, config)
    assert_one_sentence_with(words, str(error.value))


@pytest.mark.parametrize(
    "command",
    [
        "seed=4294967295 optimizer.lr=1",
        "seed=null optimizer.lr=1e-3",
        "network=convnet network.dropout=0",
        "trainer.limit_train_batches=1 trainer.limit_val_batches=0.5",
        "trainer.devices=2",
        "trainer.devices=[0,1]",
        "trainer.max_epochs=1",
        "trainer.max_epochs=2 schedule.warmup_epochs=1.5",
        "schedule.epochs=30 trainer.max_epochs=20",
        "momentum_schedule=ramp optimizer=adam",
        "optimizer=lbfgs data=digits",
        "optimizer=lbfgs data.limit=5000",
        "data=image_folder data.root=. data.crop_padding=40",  # the size is found in the images
        "trainer=cpu trainer.precision=bf16-mixed",
        "debug=fast momentum_schedule=ramp",
    ],
)
def test_good_values_pass(configured, command):
    check_run(Experiment, configured(command))


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("seed=0", 1),
        ("optimizer.lr=${data.batch_size}", 1),
        ("network=mlp network.initialization=orthogonal", 1),
        ("++trainer.max_steps=100", 1),
        ("+optimizer.amsgrad=true optimizer=adam", 1),
        ("experiment=resnet18 optimizer.lr=0.1", 1),
        ("~logger.tensorboard", 1),
        ("name=größe data.root=é", 1),
        ("debug=null +experiment=resnet18", 1),
        ("trainer.precision=16 trainer.devices='\"0,1\"'", 1),
        ("hydra.run.dir=somewhere", 1),
        ("optimizer=adam,rmsprop seed=0,1,2", 6),
        # too many jobs: each value beside the others' first
        ("optimizer=adadelta,adagrad,adam,adamw,momentum,nesterov,rmsprop,sgd seed=range(9)", 16),
        ("optimizer.lr=interval(0.1,1)", 1),
        ("optimizer=glob(ada*)", 4),
    ],
)
def test_a_good_command_passes(command, count):
    assert len(check(command)) >= count


def test_each_choice_is_offered_once():
    with pytest.raises(UserError) as error:
        check("trainer.precision=fp7")
    choices = re.findall(r"[\w-]+", str(error.value).partition("one of")[2].partition(":")[0])
    assert "32" in choices
    assert sorted(choices) == sorted(set(choices))


def test_every_wrong_value_has_its_own_sentence():
    with pytest.raises(UserError) as error:
        check("optimizer.lr=-1 seed=-1 trainer.max_epochs=ten data.batch_size=32")
    lines = str(error.value).splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == ["optimizer.lr", "seed", "trainer.max_epochs"]


def test_initialization_is_a_choice_of_the_network():
    [config] = check("network=mlp network.initialization=gaussian network.initialization.std=0.5")
    assert config.network.initialization._target_ == "project.networks.initialization.gaussian"
    assert config.network.initialization.std == 0.5
    assert config.network.depth == 8


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ("run", "run=<value>")),
        ("run=logs/x split=tset", ("split=tset", "did you mean test?")),
        ("run=logs/x tta=six", ("tta=six", "none, flip, full, unsure")),
        ("rnu=logs/x", ("rnu", "did you mean run?")),
        ("run=logs/x checkpoint=null", ("checkpoint=null", "text")),
    ],
)
def test_evaluation_answers_as_training_does(command, words):
    with pytest.raises(UserError) as error:
        check(command, "evaluate", partial(check_values, Evaluation), CONFIGS)
    assert not [word for word in words if word not in str(error.value)], error.value


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("-m run=a,b", "-m (--multirun) makes a sweep of trainings: leave it out"),
        ("hydra.mode=MULTIRUN run=a,b", "-m (--multirun) makes a sweep of trainings: leave it out"),
        ("run=a,b", "run=a,b names several values: this command takes one; a list is run=[a,b]"),
    ],
)
def test_nothing_but_trainings_is_done_several_times(monkeypatch, command, said):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *command.split()])
    with pytest.raises(UserError, match=re.escape(said)):
        check_command_line(Command(CONFIGS, "evaluate", partial(check_values, Evaluation), trains=False))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("optimizer=rmspropp", ("optimizer=rmspropp", "did you mean rmsprop?")),
        ("trainer.max_epochs=ten", ("trainer.max_epochs=ten", COUNT)),
        ("-m optimizer.lr=0.1,abc", ("optimizer.lr=abc", RATE)),
        ("data=digits search=random", ("search=… is a word of sweeps", "--multirun")),
        ("data=digits hydra.run.dir=/dev/null", ("/dev/null is no folder", "hydra.run.dir=<folder>")),
    ],
)
def test_a_wrong_command_is_answered_without_importing_torch_or_leaving_a_folder(tmp_path, command, words):
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "scripts" / "train.py", *command.split()],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert not [word for word in words if word not in ended.stderr], ended.stderr
    assert "Traceback" not in ended.stderr
    imported = set(re.findall(r"\|\s+(\w+)", ended.stderr))
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "torchvision", "sklearn"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("root: here\n  limit: 3\n", r"A configuration is no YAML: .*mine\.yaml\", line 2, column 8\."),
        ("root: here\n", r"data\._target_ is missing: name the class .*, as in _target_: package\.Name"),
    ],
    ids=["no YAML", "no target"],
)
def test_a_configuration_of_ones_own_that_cannot_be_read_is_answered_by_a_sentence(
    tmp_path, monkeypatch, capsys, file, said
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(file)
    monkeypatch.setattr(sys, "argv", ["train.py", f"--config-dir={tmp_path}", "data=mine"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    command = Command(ROOT / "configs", "train", partial(check_run, Experiment))
    with pytest.raises(SystemExit, match="2"), answers_mistakes():
        run_command(print, command)
    assert re.fullmatch(said, capsys.readouterr().err.strip())


def test_a_module_of_ones_own_that_cannot_be_imported_is_answered_with_its_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_written.py").write_text("def f(:\n")
    (tmp_path / "divides.py").write_text("\nhalf = 1 / 0\n")
    with pytest.raises(UserError, match=r"data: half_written\.Data .*\(half_written\.py, line 1\)"):
        locate("data", "half_written.Data")
    with pytest.raises(UserError, match=r"ZeroDivisionError at `half = 1 / 0` \(divides\.py, line 2\)"):
        locate("data", "divides.Data")
