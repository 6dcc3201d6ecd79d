"""What the checks before learning write to the trainer's loggers."""

from __future__ import annotations

from collections.abc import Sequence

from vitals.checks.check import Row
from vitals.checks.pictures import are_images, input_grid
from vitals.checks.training_setup import TrainingSetup
from vitals.findings import Finding, markdown, sentence
from vitals.writers.writer import Writer


def log_checks(
    writers: Sequence[Writer], rows: Sequence[Row], findings: Sequence[Finding], setup: TrainingSetup
) -> None:
    """Write what each check has to log, the images `checks/inputs` as the network gets them, the table
    `checks/verdicts`, and the text `findings`; those at level `fail` are alerts.

    Args:
        writers: of the trainer's loggers.
        rows: of the checks made.
        findings: of all of them.
        setup: that was checked.
    """
    verdicts = [(row.name, *row.said, row.verdict) for row in rows]
    for writer in writers:
        for row in rows:
            if row.outcome is not None:
                row.check.log(writer, row.outcome, setup)
        if writer.pictures and are_images(setup.inputs):
            writer.image("checks/inputs", input_grid(setup.inputs), 0)
        writer.table("checks/verdicts", ("check", "seen", "expected", "verdict"), verdicts, 0)
        writer.text("findings", markdown(findings), 0)
        for finding in findings:
            if finding.level == "fail":
                writer.alert(finding.cause, sentence(finding))
