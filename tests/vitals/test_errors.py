"""Whose line is said to fail."""

from pathlib import Path

import pytest
import torch

from vitals.errors import reason_of


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
