"""Whose line is said to fail."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vitals.errors import UserError, reason_of
from vitals.probes.step_losses import call_step


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("mine", "your code fails with KeyError at `return batch['image']` (step.py, line 2)."),
        ("site-packages/theirs", "theirs fails with KeyError at `return batch['image']` (step.py, line 2)."),
        ("site-packages/torch", "it failed on your module with KeyError, which is a fault of ours"),
    ],
)
def test_a_line_of_an_installed_package_is_said_to_be_of_it(place: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / place / "step.py"
    file.parent.mkdir(parents=True)
    file.write_text("def step(batch):\n    return batch['image']\n")
    names: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    network = torch.nn.Identity()
    network.forward = names["step"]  # type: ignore[assignment]
    with pytest.raises(KeyError) as caught:
        network({})
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # type: ignore[union-attr]  # not this file
    assert reason_of(caught.value).startswith(said)


def test_a_failing_step_of_a_package_is_said_to_be_of_it(tmp_path: Path) -> None:
    file = tmp_path / "site-packages/theirs/step.py"
    file.parent.mkdir(parents=True)
    file.write_text("def training_step(batch):\n    return batch['image']\n")
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    with pytest.raises(UserError, match=r"^theirs fails with KeyError at .*step.py, line 2\)\.$"):
        call_step(names["training_step"], {})
