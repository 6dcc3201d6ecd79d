"""Jobs of a search that end early, in a real training."""

from __future__ import annotations

from pathlib import Path

import pytest
from blobs import WORDS

from project.train import train
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

TINY = [*WORDS, "data.limit=100", "data.batch_size=32", "network.widths=[4,4]", "checks=none"]
TINY += ["~callbacks.progress", "trainer=cpu", "seed=0", "stop_hopeless=true", "diagnosis.report=false"]


@pytest.fixture
def trained(compose, tmp_path: Path):
    """`trained(word, …, others=[0.9, 0.9])`: epochs trained and the status, beside jobs so accurate."""

    def trained(*words: str, others: list[float]) -> tuple[int, dict]:
        for number, accuracy in enumerate(others):
            folder = tmp_path / f"{number}_other"
            folder.mkdir()
            rows = "".join(f"{epoch},{accuracy}\n" for epoch in (1, 2, 3, 4, 5))
            (folder / "metrics.csv").write_text("epoch,accuracy/val\n" + rows)
        folder = RunFolder(tmp_path / "9_this")
        run(compose(*TINY, "trainer.max_epochs=5", *words), folder, train)
        return len(folder.metrics.read_text().splitlines()) - 1, folder.read_status()

    return trained


@pytest.mark.parametrize(
    ("others", "epochs"), [([0.99] * 5, 1), ([0.99] * 4, 5), ([0.0] * 5, 5), ([0.0] * 2 + [0.99] * 3, 1)]
)
def test_a_job_below_the_median_of_five_others_ends_and_says_so(trained, others, epochs) -> None:
    count, status = trained(others=others)
    assert (count, status["status"]) == (epochs, "finished")
    assert bool(status["stopped_early"]) == (epochs == 1)
    assert "test/accuracy" in status["metrics"]


def test_a_job_whose_loss_is_not_finite_ends_at_once(trained) -> None:
    count, status = trained("optimizer.lr=1e30", "schedule=constant", "on_nonfinite=null", others=[])
    assert count == 1
    assert status["stopped_early"].startswith("diverged: loss/")
