"""The callbacks that watch a training, for anybody's trainer."""

import lightning as L

from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.callback import Diagnosis
from vitals.monitors.first_layer_filters import FirstLayerFilters
from vitals.monitors.histograms import Histograms
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.modes import Modes
from vitals.monitors.non_finite import NonFinite
from vitals.monitors.stale_gradients import StaleGradients
from vitals.monitors.update_ratio import UpdateRatio


def diagnostics() -> list[L.Callback]:
    """All callbacks that watch, with their defaults, for `Trainer(callbacks=vitals.diagnostics())`.

    They say what they find in `findings.json` in the trainer's log folder, keep what they measure in
    `history.jsonl` beside it, write to the trainer's loggers, and never end a training.
    """
    return [
        SanityChecks(on_fail="warn"),
        LearningCurves(subset_samples=512, subsets_per_run=20, table=False),
        UpdateRatio(),
        Histograms(),
        FirstLayerFilters(),
        NonFinite(),
        StaleGradients(),
        Modes(),
        Diagnosis(),
    ]
