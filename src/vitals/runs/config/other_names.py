"""Keys as people type them from habit: the last word of one of ours, or another template's name for it."""

import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vitals.errors import did_you_mean, nearest
from vitals.runs.config.trainer_arguments import trainer_arguments

SAME = {
    "optimizer.lr": "lr learning_rate base_lr initial_lr init_lr max_lr lr_base blr lr0",
    "optimizer.weight_decay": "wd decay l2 weight_decay",
    "data.batch_size": "bs batch batch_size train_batch_size batch_size_per_device "
    "per_device_train_batch_size mini_batch_size minibatch_size",
    "data.root": "root data_dir data_path data_root dataroot datadir dataset_path dataset_dir dataset_root",
    "data_root": "data_dir data_path root",
    "data.image_size": "img_size resolution input_size",
    "data.limit": "subset num_samples max_samples train_size",
    "data.validation_fraction": "val_split val_size val_ratio val_fraction validation_split",
    "data": "dataset datamodule dm dataset_name data_module",
    "network": "model net arch architecture backbone model_name",
    "network.dropout": "drop drop_rate dropout_rate dropout_prob p_drop",
    "network.activation": "act act_fn activation_fn nonlinearity",
    "network/initialization": "init initializer initialization init_method",
    "optimizer": "optim opt optimizer_name",
    "schedule": "scheduler lr_scheduler lr_schedule sched lr_scheduler_type",
    "schedule.warmup_epochs": "warmup lr_warmup_epochs warmup_epoch",
    "module": "model lit_module lightning_module",
    "module.label_smoothing": "smoothing",
    "trainer.max_epochs": "epochs epoch num_epochs n_epochs nepochs max_epoch total_epochs num_train_epochs",
    "trainer.max_steps": "steps num_steps max_iters iters iterations num_iterations train_steps "
    "max_train_steps",
    "trainer.devices": "gpus num_gpus n_gpus ngpus devices num_devices num_processes "
    "nproc_per_node tpu_cores",
    "trainer.accelerator": "device",
    "trainer.gradient_clip_val": "clip grad_clip clip_grad gradient_clip clip_grad_norm "
    "max_grad_norm clip_norm",
    "trainer.accumulate_grad_batches": "accumulate grad_accum accum_steps accumulation_steps "
    "grad_accum_steps gradient_accumulation_steps accumulate_batches",
    "trainer.check_val_every_n_epoch": "val_every eval_every eval_freq val_interval eval_interval val_freq",
    "trainer.log_every_n_steps": "log_every log_interval log_freq print_freq logging_steps log_every_n",
    "trainer.precision=bf16-mixed": "amp use_amp fp16 bf16 mixed_precision",
    "trainer=gpu": "gpu cuda use_gpu use_cuda",
    "callbacks=early_stopping": "early_stopping early_stop use_early_stopping",
    "callbacks=early_stopping callbacks.early_stopping.patience": "patience early_stopping_patience",
    "average=ema": "ema use_ema model_ema",
    "average=swa": "swa use_swa stochastic_weight_avg",
    "logger=wandb": "wandb use_wandb",
    "debug=fast": "dry_run smoke_test fast",
    "metric.name": "monitor metric_for_best_model best_metric optimized_metric",
    "name": "task_name exp_name experiment_name run_name exp",
    "data.crop_padding": "crop random_crop",
    "data.flip": "augment augmentation hflip random_flip",
    "logger": "report_to loggers tracker",
    "logger=wandb logger.wandb.project": "project wandb_project project_name",
    "trainer.strategy": "distributed_backend dist_backend",
    "trainer.use_distributed_sampler": "replace_sampler_ddp",
    "trainer.enable_progress_bar=false": "progress_bar_refresh_rate disable_tqdm",
    "trainer.enable_model_summary": "weights_summary",
    "trainer.limit_train_batches": "train_percent_check",
    "trainer.limit_val_batches": "val_percent_check",
    "trainer.max_time": "time_limit max_duration",
    "checkpoint.every_n_steps": "save_steps save_every_n_steps save_freq",
    "on_nonfinite=stop": "terminate_on_nan detect_nan",
    "search=random": "auto_lr_find lr_find hparams_search sweep",
    "threads": "num_threads n_threads",
    "launcher.jobs_per_device": "n_jobs",
    "search.trials": "n_trials num_trials max_trials",
    "seed": "random_seed manual_seed rng_seed seed seed_everything",
    "hydra.run.dir": "output_dir out_dir output log_dir logdir save_dir save_path work_dir run_dir",
}
"""Words to type, which end with a key where a value belongs to them, and the names of others for them."""
CHECKPOINTS = (
    "ckpt ckpt_path checkpoint checkpoint_path resume_from resume_path resume_from_checkpoint load_from"
)
WITHOUT = {
    "batches are made on the device that trains, without workers: leave it out.": "num_workers workers "
    "n_workers dataloader_num_workers pin_memory persistent_workers prefetch_factor",
    "this command always trains: leave it out, or evaluate a run that there is.": "train do_train",
    "the best weights are tested at the end of every run: leave it out, or evaluate a run that there "
    "is.": "test do_test do_eval",
    "the best and the last weights are always kept: leave it out.": "save_top_k save_total_limit save_last "
    "save_best save_best_only load_best_model_at_end checkpoint_callback save_every save_strategy",
    "it is that of the data: leave it out.": "num_classes n_classes num_labels in_channels in_chans",
    "a warm-up is given in epochs, schedule.warmup_epochs=1.": "warmup_steps num_warmup_steps warmup_ratio",
    "Adam has both in one key: optimizer=adam optimizer.betas=[0.9,0.999].": "beta1 beta2 adam_beta1 "
    "adam_beta2",
    "the loss is that of the module, group module.": "loss criterion loss_fn loss_function",
    "the primary configuration is --config-name=<name>, its folder --config-path=<folder>.": "config cfg",
    "there is nothing like it here: leave it out.": "extras paths local hydra print_config ignore_warnings "
    "tags pretrained mixup cutmix aa auto_augment randaugment color_jitter drop_path eval_batch_size "
    "val_batch_size test_batch_size",
}
"""What is said of names that there is no key for."""
CHOICES = {
    "constant": "none null fixed off",
    "kaiming": "he msra",
    "xavier": "glorot",
    "silu": "swish",
    "one_cycle": "onecyclelr",
    "auto": "default",
    "ddp": "ddp_sim ddp_spawn",
    "fast": "default fdr limit overfit",
    "image_folder": "imagenet",
    "nesterov": "sgd_momentum",
    "local": "joblib submitit_local basic",
    "slurm": "submitit submitit_slurm",
    "tpe": "optuna",
}
"""Other names of what can be chosen."""


def did_you_mean_choice(name: str, choices: Sequence[str]) -> str:
    """A clause with what `name` probably stands for among the `choices`."""
    known = [choice for choice in choices if name.lower() in CHOICES.get(choice, "").split()]
    return f"did you mean {known[0]}?" if known else did_you_mean(name, choices)


def did_you_mean_key(
    key: str,
    value: str | None,
    config: DictConfig,
    groups: Mapping[str, Sequence[str]],
    elsewhere: Iterable[str] = (),
) -> str:
    """A clause with the words that `key=value` probably stands for, or else the nearest names on its level of
    `config`. `value` is as it was typed, or None; `groups` are the config groups with their choices, and
    `elsewhere` words that choose what has the key, and set it."""
    parts = key.replace("/", ".").split(".")
    name = parts[-1].lower().replace("-", "_")
    for sentence, names in WITHOUT.items():
        if name in names.split() and "trainer" in config:
            return sentence
    begun = (own for own in _keys(config) if own.startswith(f"{'.'.join(parts)}_"))
    longer = (words for own in begun for words in _with_value(own, value, {}))
    found = [elsewhere, longer, _words(name, value, config, groups)]
    # A key with its group is probably one of it, and any other may be anybody's.
    for words in found if "." in key else reversed(found):
        if several := list(dict.fromkeys(itertools.islice(words, 3))):
            return f"did you mean {' or '.join(several)}?"
    level: Any = config
    while len(parts) > 1 and OmegaConf.is_dict(level) and parts[0] in level:
        level = level[parts.pop(0)]
    inside = {str(each) for each in level} if OmegaConf.is_dict(level) else set()
    inside |= {group for group in groups if "/" not in group} if level is config else set()
    if key.startswith("trainer."):
        inside |= set(trainer_arguments())
        if not nearest(parts[0], inside):
            return "nor has Lightning's Trainer an argument of that name."
    return did_you_mean(parts[0], [each for each in inside if not each.startswith("_")])


def _words(
    name: str, value: str | None, config: DictConfig, groups: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    trains, keys = "trainer" in config, _keys(config)
    if name in CHECKPOINTS.split() and value is not None:
        yield from _of_checkpoint(value, keys)
        return
    if trains:
        keys += [f"trainer.{argument}" for argument in trainer_arguments()]
    meant = [
        words
        for words, names in SAME.items()
        if name in names.split() and _is_known(words, keys, groups, trains)
    ]
    # What has a choice of about that name, where several may be meant: a "model" is a network, or all.
    meant = [words for words in meant if value and nearest(value, groups.get(words, ()))] or meant
    for words in meant or [key for key in keys if key.rpartition(".")[2] == name]:
        yield from _with_value(words, value, groups if trains else {})


def _is_known(words: str, keys: Sequence[str], groups: Mapping[str, Any], trains: bool) -> bool:
    """Whether the configuration has what `words` name: a key, or in a command that trains a group."""
    key, chooses, _ = words.rpartition(" ")[2].partition("=")
    return key in keys or (
        trains and (key in groups or bool(chooses) or key.startswith(("hydra.", "callbacks.", "logger.")))
    )


def _with_value(words: str, value: str | None, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    key = words.rpartition(" ")[2]
    if value is None or "=" in key:
        yield words
    elif key in groups and value not in groups[key]:
        for choice in nearest(value, groups[key]) or groups[key]:
            yield f"{words}={choice}"
    else:
        yield f"{words}={shlex.quote(value)}"


def _of_checkpoint(value: str, keys: Sequence[str]) -> Iterator[str]:
    """The folder of the run that a checkpoint lies in, and where one can be chosen, its name."""
    path = PurePath(value)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    if "resume" in keys:
        yield f"resume={shlex.quote(str(folder))}"
    elif "run" in keys:
        chosen = f" checkpoint={shlex.quote(path.name)}" if folder != path else ""
        yield f"run={shlex.quote(str(folder))}{chosen}"


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """The dotted keys of all values."""
    keys = []
    for name in map(str, config):
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_interpolation()):
            keys += _keys(node, f"{prefix}{name}.")
        elif not name.startswith("_"):
            keys.append(f"{prefix}{name}")
    return keys
