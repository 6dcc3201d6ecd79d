"""Road of a run: config → data → network → checks → fit → evaluate; around it stands `vitals.runs.run`."""

from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from project.build import build
from vitals.findings import print_findings
from vitals.metric import Metric
from vitals.runs import instantiate, terminal
from vitals.runs.callbacks.run_status import RunStatus
from vitals.runs.callbacks.signals import StopAtSignal
from vitals.runs.callbacks.stop_hopeless import StopHopeless
from vitals.runs.resume import checkpoint_to_resume, fit
from vitals.runs.run_folder import RunFolder


def train(config: DictConfig, folder: RunFolder) -> dict[str, float]:
    """Train and test as configured, in `folder`; returns the final metrics."""
    metric = Metric.of(config)
    module, data = build(config)

    loggers, averages = instantiate.build_loggers(config, folder), instantiate.build_average(config)
    trainer = instantiate.build_trainer(
        config,
        logger=loggers,
        # The average early: LearningCurves writes its figures with those of the epoch.
        callbacks=[
            *averages,
            *instantiate.build_callbacks(config),
            *instantiate.build_checks(config),
            *instantiate.build_on_nonfinite(config),
            diagnosis := instantiate.build_diagnosis(config),
            *([StopHopeless(folder, metric)] if config.stop_hopeless else []),
            RunStatus(folder),
            StopAtSignal(),
        ],
        default_root_dir=str(folder.path),
    )
    checkpoint = checkpoint_to_resume(config, folder, module, loggers)
    if trainer.is_global_zero:
        terminal.print_start(config, module, data, folder)
    fit(trainer, module, data, checkpoint)

    averaged = any(average.averaged_is_better for average in averages)
    best = averages[0].path if averaged else getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        module.load_state_dict(instantiate.load_checkpoint(best)["state_dict"])
    if trainer.is_global_zero:
        folder.write_status("running", weights="average" if averaged else "best" if best else "last")
    test: dict[str, float] = {}
    if is_overridden("test_step", module) and is_overridden("test_dataloader", data):
        trainer.test(module, datamodule=data, verbose=False)
        test = {name: value.item() for name, value in trainer.callback_metrics.items()}
    metrics = terminal.final_metrics(folder, metric, test, averaged)
    instantiate.log_results(loggers, config, metrics, trainer.global_step)
    if trainer.is_global_zero:
        terminal.print_results(folder, metric, metrics, [average.verdict() for average in averages], loggers)
        print_findings([*diagnosis.findings, *diagnosis.looks])
    return metrics
