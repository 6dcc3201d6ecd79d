"""A run is continued with its own configuration, changed where the command line says so."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from project.schema import Experiment
from vitals.errors import UserError
from vitals.runs.config.overrides import groups, search_path
from vitals.runs.config.resume import resumed_config
from vitals.runs.config.validation import check_run
from vitals.runs.run_folder import RunFolder

GROUPS = list(groups(search_path(Path(__file__).parents[3] / "configs", "train")))


@pytest.fixture
def resume(tmp_path, compose):
    """`resume("trainer.max_epochs=4")`: the configuration of a run of two epochs that is continued."""
    config = compose("data=digits", "optimizer=adam", "schedule=constant", "trainer.max_epochs=2")
    config.seed = 7
    choices = {"optimizer": "adam", "data": "digits", "schedule": "constant"}
    OmegaConf.save({**config, "provenance": {"choices": choices}}, tmp_path / "config.yaml")

    def resume(*words):
        resumed = resumed_config(RunFolder(tmp_path), words, GROUPS)
        check_run(Experiment, resumed)
        return resumed

    return resume


def test_a_run_continues_as_it_was_set_up(resume, tmp_path):
    config = resume()
    assert config.optimizer._target_ == "torch.optim.Adam"
    assert config.seed == 7
    assert config.resume == str(tmp_path)


def test_values_can_be_set_anew_and_kept(resume):
    config = resume("trainer.max_epochs=4", "optimizer.lr=0.5", "optimizer=adam")
    assert config.trainer.max_epochs == 4
    assert config.optimizer.lr == 0.5
    assert config.optimizer.betas == [0.9, 0.999]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("optimizer=sgd", ("optimizer=sgd", "optimizer=adam")),
        ("network=vgg", ("network=vgg", "cannot continue")),
        ("optimizer.nesterov=true", ("optimizer.nesterov",)),
        ("trainer.max_epochs=ten", ("trainer.max_epochs=ten", "a whole number of 1 or more")),
    ],
)
def test_another_component_or_a_wrong_value_is_refused(resume, word, words):
    with pytest.raises(UserError) as error:
        resume(word)
    assert not [word for word in words if word not in str(error.value)], error.value


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"resume=.*nowhere is not a folder"):
        RunFolder.existing(tmp_path / "nowhere", "resume")


def test_a_path_that_nobody_can_look_at_is_named():
    with pytest.raises(UserError, match=r"resume=aaa.* cannot be read: File name too long\."):
        RunFolder.existing("a" * 300, "resume")


def test_a_checkpoint_is_answered_with_its_run(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    for file in (run.config, run.status, run.last_checkpoint):
        file.write_text("{}")
    with pytest.raises(UserError, match=rf"did you mean run={tmp_path} checkpoint=last\.ckpt\?"):
        RunFolder.existing(run.last_checkpoint, "run")
    with pytest.raises(UserError, match=rf"did you mean resume={tmp_path}\?"):
        RunFolder.existing(run.checkpoints, "resume")


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"resume=.* is not the folder of a run: it has no config\.yaml"):
        RunFolder.existing(tmp_path, "resume")


def test_a_spoilt_configuration_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1, 2")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        resumed_config(RunFolder(tmp_path), [], GROUPS)
