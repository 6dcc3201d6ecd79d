"""Every YAML of every group, chosen by name alone, composes, is valid, and builds what it names."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from project.build import build_data, build_module, prepare
from project.optim.optimizers import set_momentum
from project.schema import Experiment
from vitals.errors import UserError
from vitals.runs.config.overrides import groups, search_path
from vitals.runs.config.validation import check_run
from vitals.runs.instantiate import (
    build_callbacks,
    build_loggers,
    build_trainer,
)
from vitals.runs.prerequisites import require_prerequisites
from vitals.runs.run_folder import RunFolder

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = groups(search_path(CONFIGS, "train"))
CHOICES = [(group, choice) for group, choices in GROUPS.items() for choice in choices]


@pytest.fixture
def images(tmp_path, write_cifar, write_tree):
    """Words that give `data=<name>` a copy of a few images."""

    def images(name):
        if name == "digits":
            return []
        if name == "image_folder":
            write_tree(tmp_path / "images", train=10, test=2, size=16)
        else:
            write_cifar(tmp_path / "images", name)
        return [f"data.root={tmp_path / 'images'}", "data.validation_fraction=0.5"]

    return images


@pytest.fixture(autouse=True)
def as_before():
    """A trainer makes torch deterministic for good."""
    yield
    torch.use_deterministic_algorithms(False)


def make_do(config):
    """Do without what this machine lacks, a GPU or the package of a logger, once that has been refused."""
    for name in {"wandb", "mlflow", "trackio"} & set(config.logger):
        if find_spec(name) is None:
            with pytest.raises(UserError, match=rf"logger={name} needs .*: pip install {name}"):
                require_prerequisites(config)
            config.logger = {key: value for key, value in config.logger.items() if key != name}
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(config.trainer.accelerator, True):
        with pytest.raises(UserError, match=r"trainer\.accelerator=\w+ asks for"):
            require_prerequisites(config)
        config.trainer.accelerator = "cpu"


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda value: value)
def test_every_choice_builds_and_takes_a_step(compose, images, tmp_path, monkeypatch, group, choice):
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = [f"{group}={choice}"]
    words += images(choice) if group == "data" else ["data=digits"]
    config = compose(*words)
    check_run(Experiment, config)
    make_do(config)
    require_prerequisites(config)

    data = build_data(config)
    torch.manual_seed(0)
    classifier = build_module(config, data)
    trainer = build_trainer(
        config,
        callbacks=build_callbacks(config),
        logger=build_loggers(config, RunFolder(tmp_path)),
        default_root_dir=str(tmp_path),
    )
    assert trainer.max_epochs == config.trainer.max_epochs

    optimizer = classifier.make_optimizer(classifier.network)
    classifier.schedule.every_step(optimizer, steps_per_epoch=3, run_epochs=trainer.max_epochs)
    if classifier.momentum_schedule is not None:
        set_momentum(optimizer, classifier.momentum_schedule(0.0))
    pictures, labels = (part[:8] for part in next(iter(data.train_dataloader())))

    def closure():
        optimizer.zero_grad()
        logits = classifier(pictures)
        assert logits.shape == (8, len(data.classes))
        loss = cross_entropy(logits, labels, label_smoothing=config.module.label_smoothing)
        loss.backward()
        return loss

    before = [parameter.detach().clone() for parameter in classifier.parameters()]
    assert optimizer.step(closure).isfinite()
    assert not all(map(torch.equal, before, classifier.parameters()))


@pytest.mark.parametrize("network", ["mlp", "three_layer"])
def test_a_network_of_square_images_asks_for_a_size(tmp_path, compose, write_tree, network):
    write_tree(tmp_path, train=6, size=(8, 12))
    words = [
        "data=image_folder",
        f"data.root={tmp_path}",
        "data.validation_fraction=0.5",
        f"network={network}",
    ]
    config = compose(*words)
    with pytest.raises(UserError, match=r"does not take images of 12×8 pixels .*: set data\.image_size=8"):
        build_module(config, build_data(config))
    resized = compose(*words, "data.image_size=8")
    build_module(resized, build_data(resized))


@pytest.mark.parametrize("network", ["convnet", "vgg", "resnet18"])
def test_a_network_of_any_images_takes_those_that_are_not_square(tmp_path, compose, write_tree, network):
    write_tree(tmp_path, train=6, size=(32, 48))
    config = compose("data=image_folder", f"data.root={tmp_path}", f"network={network}")
    config.data.validation_fraction = 0.5
    classifier = build_module(config, build_data(config))
    assert classifier.training
    assert classifier(torch.zeros(2, 3, 32, 48)).shape == (2, 3)


@pytest.mark.parametrize("group", ["data", "module", "network", "optimizer", "schedule"])
def test_what_must_be_built_names_what_builds_it(compose, group):
    config = compose("data=digits")
    config[group]._target_ = None
    with pytest.raises(UserError, match=rf"^{group}\._target_=null is not allowed: it must be a dotted name"):
        prepare(config)


def test_lbfgs_refuses_a_large_image_folder(tmp_path, compose, write_tree):
    write_tree(tmp_path, classes=["ant", "bee"], train=1, size=2)
    for name in ("ant", "bee"):
        folder = tmp_path / "train" / name
        [image] = folder.iterdir()
        for copy in range(2800):
            (folder / f"copy{copy}.png").hardlink_to(image)
    words = ["data=image_folder", f"data.root={tmp_path}", "data.crop_padding=0", "optimizer=lbfgs"]
    with pytest.raises(UserError, match=r"optimizer=lbfgs .* 5,\d\d\d training images: set data\.limit=5000"):
        build_data(compose(*words))
    assert len(build_data(compose(*words, "data.limit=5000")).train) == 5000


@pytest.mark.parametrize("words", [["callbacks=none"], ["callbacks.filters=null"]])
def test_settings_of_callbacks_that_were_not_chosen_are_passed_over(compose, words):
    config = compose("data=digits", "experiment=fast_gpu", *words)
    check_run(Experiment, config)
    names = [type(callback).__name__ for callback in build_callbacks(config)]
    assert "FirstLayerFilters" not in names
    assert ("UpdateRatio" in names) == (words != ["callbacks=none"])
