"""A bounded part of `benchmarks.faults`: a few kills, a few dozen strange command lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.unbreakable.commands import Commands
from benchmarks.unbreakable.differences import differences, in_short
from benchmarks.unbreakable.kills import Kills
from benchmarks.unbreakable.moments import Fate

SHORT = ["trainer.max_epochs=2", "data.limit=60", "network.dropout=0.2", "optimizer=adam"]
PLACES = {
    "amid an epoch": [Fate("after step 12", 0.002)],
    "as it saves, then once more": [Fate("rename checkpoints/best.ckpt 1"), Fate("before on_test_end 1")],
}


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    return Kills(Commands(), tmp_path_factory.mktemp("kills"), "short", SHORT)


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_is_killed_and_continued_is_the_undisturbed_one_in_every_file(
    kills: Kills, place: str
) -> None:
    kill = kills.kill(list(PLACES).index(place), PLACES[place])
    assert kill.happened
    assert in_short(kill.unequal) == ""


def test_what_differs_is_said_of_every_file(kills: Kills, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(kills.undisturbed, run, symlinks=True)
    assert differences(run, kills.undisturbed) == []

    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    next(iter(last["state_dict"].values())).mul_(1.001)
    torch.save(last, run / "checkpoints" / "last.ckpt")
    arrays = dict(np.load(run / "predictions.npz"))
    arrays["labels"][0] += 1
    np.savez(run / "predictions.npz", **arrays)
    lines = (run / "history.jsonl").read_text().splitlines()
    (run / "history.jsonl").write_text("\n".join([*lines, lines[-1]]) + "\n")
    for name in ("findings.json", "status.json"):
        content = json.loads((run / name).read_text())
        content.pop() if isinstance(content, list) else content.update(status="running")
        (run / name).write_text(json.dumps(content))
    table = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(table.replace("\n2,", "\n3,"))
    for events in run.glob("events.out.*"):  # in any order, and each holds a part of the tags
        events.unlink()

    said = differences(run, kills.undisturbed)
    for file in ("checkpoints/last.ckpt", "predictions.npz", "history.jsonl", "findings.json", "status.json"):
        assert any(words.startswith(f"{file}: ") for words in said), file
    assert "metrics.csv: row 2, epoch: 3 instead of 2" in said
    assert any(words.startswith("TensorBoard: loss/train: ") and "lost" in words for words in said)


def test_no_command_line_ends_in_a_traceback() -> None:
    pytest.importorskip("hypothesis")
    from benchmarks.unbreakable.fuzz import Answer, fuzzed

    def look(answer: Answer) -> None:
        assert not answer.wrong, f"{answer.words}: {answer.wrong}"

    assert fuzzed(20, whole=False, say=look) >= 15
