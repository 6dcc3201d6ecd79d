"""The callbacks that watch a training, for anybody's trainer."""

import lightning as L

from vitals.callbacks.sanity_checks import SanityChecks


def diagnostics() -> list[L.Callback]:
    """All callbacks that watch, with their defaults, for `Trainer(callbacks=vitals.diagnostics())`.

    They say what they find in `findings.json` in the trainer's log folder and never end a training.
    """
    return [SanityChecks(on_fail="warn")]
