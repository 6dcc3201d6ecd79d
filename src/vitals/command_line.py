"""Turn a function into a command: check everything the user wrote, then hand over to Hydra.

The checks run in the order of what they cost: names and values first, without torch, then what needs torch.
Nothing is written before all of them have passed. A `UserError` ends the command with its message and exit
code 2, or 1 where the machine is at fault, without a traceback; `HYDRA_FULL_ERROR=1` shows one.
"""

import argparse
import io
import logging
import os
import secrets
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from string import Template
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vitals.errors import UserError, did_you_mean, one_line
from vitals.files import FAILURES, CannotWrite, cannot_write, require_writable
from vitals.runs.allowed_targets import names_to_trust
from vitals.runs.config.overrides import Overrides, groups, own_search_path, places_in, search_path
from vitals.runs.config.resume import OF_SWEEPS, PATIENCE, resumed_config, same_run
from vitals.runs.kept_code import copied, environment
from vitals.runs.quoting import COMMANDS, hydra_value, program, this_program
from vitals.runs.run_folder import SWEEP, TYPED_IN, RunFolder, shown
from vitals.runs.signals import Interrupted, Signals
from vitals.sweeps.jobs.backends import not_of_hydra
from vitals.sweeps.jobs.folder import folder_name
from vitals.sweeps.jobs.resume import words_of_sweep
from vitals.terminal import status_line

CONFIGS = Path(__file__).parent / "configs"
"""The instrument's own configurations and groups."""
HYDRAS_OWN = ("hydra/launcher=", "hydra/sweeper=", "hydra.launcher.", "hydra.sweeper.")
"""How words for Hydra's own launchers and sweepers begin."""
MULTIRUN = "hydra.mode=MULTIRUN"
"""Hydra's word for `--multirun`."""
Check = Callable[[DictConfig], object]

OmegaConf.register_new_resolver("run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)
OmegaConf.register_new_resolver("run_name", lambda name, choice: name or choice, replace=True)
OmegaConf.register_new_resolver("job_folder", folder_name, replace=True)


@contextmanager
def answers_mistakes() -> Iterator[None]:
    """Within it, a `UserError` ends the program with its message and exit code, and a signal as
    `vitals.runs.signals` has it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that its encoding has no letters for ends nothing
            stream.reconfigure(errors="backslashreplace")
    full_error = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    complains, logging.raiseExceptions = logging.raiseExceptions, False  # of a log that cannot be written
    of_threads, threading.excepthook = threading.excepthook, partial(_in_thread, threading.excepthook)
    try:
        with Signals():
            yield
    except Interrupted:
        print("\nInterrupted.", file=sys.stderr)
        raise
    except BrokenPipeError:  # of `| head`, say: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except Exception as error:
        if full_error or (problem := _mistake(error)) is None:
            raise
        print(f"\n{problem}", file=sys.stderr)
        sys.exit(problem.code)
    finally:
        logging.raiseExceptions, threading.excepthook = complains, of_threads


def _mistake(error: Exception) -> UserError | None:
    """What is said of an error that the user can mend; None of any other."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, yaml.YAMLError):
        return UserError(f"A configuration is no YAML: {one_line(error)}.")
    system = error.__cause__ or error
    if isinstance(system, OSError) and system.errno in FAILURES and system.filename:
        return CannotWrite(Path(system.filename), system)
    return cannot_write(error)


def _in_thread(tell: Callable[[Any], object], raised: Any) -> None:
    """Say nothing of a write that failed in a thread of TensorBoard's: its next call raises that again."""
    system = raised.exc_value
    if not (isinstance(system, OSError) and system.errno in FAILURES):
        tell(raised)


@dataclass(frozen=True)
class Command:
    """What a command line is checked against: the primary configuration `config_name` in `config_dir`, and
    checks.

    `check` makes those of one configuration that need no torch, `prepare` slower ones, once before anything
    is written, and not in a sweep; `read_data` looks at the data themselves after all others, in a sweep, if
    they are in a folder, once for each of the `data` that its jobs have. `trains` says whether the command
    fills the folder that Hydra gives it, and can do so several times, in a sweep.
    """

    config_dir: Path
    config_name: str
    check: Check
    prepare: Check | None = None
    read_data: Check | None = None
    trains: bool = True


def run_command(task: Callable[[DictConfig], None], command: Command) -> None:
    """Run `task` with the configuration that the command line asks for."""
    # Before torch is imported: its threads wait for each other in a loop that keeps a core busy, and where
    # others want the cores too a step took up to ten times as long, and as many CPU seconds, as with this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # so that a `_target_` may lie in the working folder
    if (copy := str(copied(Path(here)))) != here:
        sys.path.insert(sys.path.index(here), copy)
    if not _is_worker():
        gather_words(command)
    command = with_primary_configuration(command)
    if not _is_worker():
        check_command_line(command)
    _hand_over(task, command)


def gather_words(command: Command) -> None:
    """Put what Hydra's parser takes for the end of the `key=value` words, as in `a=1 -m b=2`, behind them;
    `UserError` for an option that Hydra does not have, with the words that are probably meant, or a wrong
    value of one."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign, assignment]
    _, lost = parser.parse_known_args()
    if not lost:
        return
    arguments, unknown = parser.parse_known_intermixed_args()
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is not None:
        following = sys.argv[sys.argv.index(option) + 1 :][:1]
        key, equals, value = option.lstrip("-").partition("=")
        if not equals:
            value = next((word for word in following if "=" not in word and word[0] not in "-~"), "true")
        refused = f"there is no option {option}: values are given as key=value"
        try:
            Overrides(command.config_dir, command.config_name, [f"{key}={value}"])
        except UserError as error:
            raise UserError(f"{refused}. {error}") from None
        raise UserError(f"{refused}: write {key}={value}.")
    for word in arguments.overrides:
        sys.argv.remove(word)
    sys.argv[1:1] = arguments.overrides


def _refuse(problem: str) -> NoReturn:
    if problem.startswith(("ambiguous option: --config ", "ambiguous option: --config=")):  # of others
        problem += " (the primary configuration is --config-name=<name>, its folder --config-path=<folder>)"
    raise UserError(f"the command line cannot be read: {problem}.")


def with_primary_configuration(command: Command) -> Command:
    """The same with folder and name of the configuration as `--config-path` and `--config-name` have them;
    `UserError` if there is no such folder, or no such file in it.

    A path that is not absolute begins in the folder of the script, as Hydra has it, or in the working folder;
    it becomes absolute in `sys.argv`, so that whatever starts the command again finds it.
    """
    flags, config_dir = get_args_parser().parse_args(), command.config_dir
    if flags.config_path is not None:
        given = Path(flags.config_path)
        places = [Path(this_program()).absolute().parent / given, given.absolute()]
        config_dir = next(filter(Path.is_dir, places), places[-1])
        if not config_dir.is_dir():
            raise UserError(f"--config-path={flags.config_path} is not a folder: name one of YAML files.")
        sys.argv[1:] = [*_without_flag(sys.argv[1:], "--config-path", "-cp"), f"--config-path={config_dir}"]
    config_name = (flags.config_name or command.config_name).removesuffix(".yaml")
    if flags.config_name is not None:
        if not (config_dir / f"{config_name}.yaml").is_file():
            near = did_you_mean(config_name, [file.stem for file in config_dir.glob("*.yaml")])
            raise UserError(
                f"--config-name={config_name}: there is no {config_name}.yaml in {config_dir}; {near}"
            )
        sys.argv[1:] = [*_without_flag(sys.argv[1:], "--config-name", "-cn"), f"--config-name={config_name}"]
    return replace(command, config_dir=config_dir, config_name=config_name)


def _add_words(*further: str) -> None:
    """Put `further` words into `sys.argv` behind the others: after an option Hydra's parser takes none."""
    words = get_args_parser().parse_args().overrides
    last = max((place for place, word in enumerate(sys.argv) if place and word in words), default=0)
    sys.argv[last + 1 : last + 1] = further


def _without_flag(words: list[str], *names: str) -> list[str]:
    """The words without a flag and its value."""
    for place, word in enumerate(words):
        if word in names:
            return words[:place] + words[place + 2 :]
        if word.partition("=")[0] in names:
            return words[:place] + words[place + 1 :]
    return words


def check_command_line(command: Command) -> None:
    """Refuse the words in `sys.argv` with one sentence, or spell them as Hydra understands them; `UserError`
    if a word, or a configuration that they ask for, is wrong."""
    if MULTIRUN in sys.argv[1:]:
        sys.argv[1:] = ["-m", *(word for word in sys.argv[1:] if word != MULTIRUN)]
    flags = get_args_parser().parse_args()
    _require_flags_fit(flags)
    if flags.hydra_help or flags.shell_completion:
        return
    if flags.multirun and not command.trains:
        raise UserError(f"-m (--multirun) makes a sweep of trainings: leave it out of {this_program()}.")

    words = _on_one_search_path(command)
    if flags.help:
        print_help(command, words)
        sys.exit()
    goes_on = flags.multirun and any(word.startswith("resume_sweep=") for word in words)
    if goes_on:
        sys.argv[0] = os.path.abspath(sys.argv[0])  # the working folder may be another one
        sys.argv[1:] = ["-m", *words_of_sweep(words, command.config_dir)]
        words = _on_one_search_path(command)
    searched = any(word.startswith("search=") for word in words)
    if flags.multirun and not searched and any("interval(" in word for word in words):
        further = ["search=random", "~search.space"]  # of the intervals that are given, and nothing else
        _add_words(*further)
        words += further
    for word in words:
        of_hydra = word.startswith(HYDRAS_OWN)
        if of_hydra and (flags.multirun or not word.endswith(("=basic", "=vitals"))):
            raise not_of_hydra(word)
    overrides = Overrides(command.config_dir, command.config_name, words)
    spelled = [overrides.spelled.get(word, word) for word in sys.argv[1:]]
    sys.argv[1:] = [word for word in spelled if word is not None]

    if flags.cfg or flags.info:
        return
    if flags.multirun:
        _check_sweep(command, overrides, goes_on)
    else:
        _check_run(command, overrides)


def _require_flags_fit(flags: argparse.Namespace) -> None:
    given = [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(flags, name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} do not go together: leave one of them out.")
    if flags.resolve and not (flags.cfg or flags.help):
        raise UserError("--resolve belongs to --cfg: write --cfg job --resolve.")


def _check_sweep(command: Command, overrides: Overrides, goes_on: bool) -> None:
    """Check the configuration of every job, and look once at each of the `data` in a folder. `goes_on` says
    that the sweep is continued."""
    place = overrides.value("hydra.sweep.dir")
    if place and not goes_on and Path(str(place), SWEEP).exists():
        raise UserError(
            f"hydra.sweep.dir={place} holds a sweep already: -m resume_sweep={shlex.quote(str(place))} goes "
            f"on with it, any other folder leaves it alone."
        )
    if place is not None and not goes_on:
        if place == "":
            raise UserError(
                "hydra.sweep.dir= names no folder: write hydra.sweep.dir=<folder>, or leave it out."
            )
        require_writable(Path(str(place)), "hydra.sweep.dir")
        if RunFolder(str(place)).config.exists():
            raise UserError(f"hydra.sweep.dir={place} holds a run: name another folder for the sweep.")
    if _run_to_resume(overrides) is not None:
        raise UserError(
            "resume=… continues one run: leave --multirun out; resume_sweep=<sweep folder> continues a sweep."
        )
    configs = list(overrides.composed())
    for config in configs:
        command.check(config)
    if command.read_data is None:
        return
    in_folders = [config for config in configs if OmegaConf.select(config, "data.root") is not None]
    for config in {OmegaConf.to_yaml(config.data, resolve=True): config for config in in_folders}.values():
        command.read_data(config)


def _check_run(command: Command, overrides: Overrides) -> None:
    """Check the one configuration of a run, be it new or resumed."""
    overrides.require_one_run(command.trains)
    for key in OF_SWEEPS:  # a single run would pass over them in silence
        if overrides.value(key) is not None:
            raise UserError(f"{key}=… is a word of sweeps: add -m (--multirun).")
    resume = _run_to_resume(overrides)
    if resume is None:
        _check_new_run(command, overrides)
    elif resume == "auto":
        _find_same_run(overrides, command)
        check_command_line(command)
    else:
        _check_resumed_run(command, overrides, resume)


def _run_to_resume(overrides: Overrides) -> Any:
    """What `resume=` names, a folder or `auto`; None where it was not given."""
    resume = overrides.value("resume")
    for key in ("resume", "hydra.run.dir"):
        if overrides.value(key) == "":
            raise UserError(f"{key}= names no folder: write {key}=<folder>, or leave it out.")
    if str(resume).lower() in ("true", "last", "latest") and not Path(str(resume)).exists():
        raise UserError(
            f"resume={resume} names no run: resume=auto goes on with the newest one of the same "
            f"configuration, resume=<run folder> with any."
        )
    return resume


def _check_resumed_run(command: Command, overrides: Overrides, resume: Any) -> None:
    """Check the configuration with which the run in the folder `resume` goes on."""
    folder = RunFolder.existing(resume, "resume")
    if command.trains and not _is_further():
        folder.require_free()
        print(f"going on with {shown(folder.path)}", flush=True)
    config = resumed_config(folder, overrides.arguments, list(overrides.groups))
    _add_words(f"hydra.run.dir={hydra_value(folder.path.absolute())}")
    command.check(config)
    _try_out(command, config)


def _check_new_run(command: Command, overrides: Overrides) -> None:
    """Check the configuration of a run that begins; the run that was in its folder is moved aside at last."""
    [config] = overrides.composed()
    command.check(config)
    old = None
    if command.prepare is not None and command.trains:
        folder = RunFolder(overrides.run_folder())
        folder.require_no_sweep("hydra.run.dir")
        require_writable(folder.path, "hydra.run.dir")
        if folder.config.exists():
            old = folder
            old.require_free()
            if not config.get("overwrite"):
                old.require_new()
    if command.prepare is not None and not _is_further():  # at once, for what comes next takes seconds
        choices = overrides.choices().items()
        print(*(f"{group}={choice}" for group, choice in choices if group not in OF_SWEEPS), flush=True)
    _try_out(command, config)
    if old is not None:
        print(f"the run that was in {shown(old.path)} is now in {shown(old.move_aside())}")


def _try_out(command: Command, config: DictConfig) -> None:
    """The slower checks of one run."""
    if command.prepare is not None:
        with status_line("importing torch, and building everything once on trial"):
            command.prepare(config)
    if command.read_data is not None:
        command.read_data(config)


def _find_same_run(overrides: Overrides, command: Command) -> None:
    """Put into `sys.argv`, for `resume=auto`, the run to go on with, or nothing where it is to be begun; end
    the program if it has finished. `UserError` if the configuration is wrong, or another process trains
    it."""
    [config] = overrides.composed()
    command.check(config)
    words = [word for word in sys.argv[1:] if not word.startswith("resume=")]
    places = [word for word in words if word.startswith("hydra.run.dir=")]
    named = bool(places) and "${" not in places[-1]
    patience = None if _is_further() else PATIENCE
    folder = same_run(config, RunFolder(overrides.run_folder()), named, patience) if command.trains else None
    if folder is None:
        sys.argv[1:] = words
        return
    if folder.read_status().get("status") == "finished":
        print(f"{shown(folder.path)} has finished: nothing is left to do.")
        sys.exit()
    if not folder.begins_again and not folder.has_checkpoints:
        folder.move_aside()  # none of its trainings can be gone on with
        sys.argv[1:] = words
        return
    ours = [word for word in words if word.lstrip("+~").startswith(("-", "hydra")) and word not in places]
    ours += [word for word in words if word.startswith("trust=")]
    if names := names_to_trust(config, folder.path):  # that this command names itself
        given = OmegaConf.select(config, "trust") or []
        names += [given] if isinstance(given, str) else given
        ours.append(f"trust=[{','.join(map(hydra_value, names))}]")
    sys.argv[1:] = ours
    _add_words(f"resume={hydra_value(folder.path)}")


def print_help(command: Command, words: list[str]) -> None:
    """What `--help` says: Hydra's own would leave out the groups that are on the search path."""
    overrides = Overrides(command.config_dir, command.config_name, words)
    known, config = overrides.groups, overrides.with_hydra
    task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    commands = [file.stem for file in COMMANDS.glob("[a-z]*.py")]
    parts = {name.upper(): shlex.join(program(command=name)) for name in commands}
    parts["APP_CONFIG_GROUPS"] = "\n".join(f"{group}: {', '.join(known[group])}" for group in known)
    parts["CONFIG"] = OmegaConf.to_yaml(task)
    names = {group: OmegaConf.select(config, f"{group}._target_") for group in ("module", "network")}
    made = " with ".join(str(name).rpartition(".")[-1] for name in names.values() if name)
    data, metric = overrides.choices().get("data"), OmegaConf.select(config, "metric.name")
    parts["SETUP"] = f"{made} on data={data}, judged by {metric}"
    print(Template(config.hydra.help.template).safe_substitute(parts))


def _on_one_search_path(command: Command) -> list[str]:
    """The `key=value` words of the command line, with all that `--config-dir` and `hydra.searchpath` name in
    one of them, in `sys.argv` too.

    What they name comes after the project's own folder, as with Hydra, and before what the primary
    configuration has in its search path, which is kept. Paths become absolute, so that jobs of a sweep find
    them from whichever folder they are run.
    """
    arguments = get_args_parser().parse_args()
    given = [word for word in arguments.overrides if word.startswith("hydra.searchpath=")]
    places = [] if arguments.config_dir is None else [arguments.config_dir]
    for word in given:
        places += places_in(word)
    if not given and not places:
        return list(arguments.overrides)
    whole = []
    for place in places:
        kind, _, rest = place.rpartition("://")
        whole.append(place if kind not in ("", "file") else f"file://{Path(rest).expanduser().absolute()}")
    own = own_search_path(command.config_dir, command.config_name)
    listed = ",".join(hydra_value(place) for place in dict.fromkeys([*whole, *own]))
    words = [word for word in sys.argv[1:] if word not in given]
    sys.argv[1:] = _without_flag(words, "--config-dir", "-cd")
    _add_words(f"hydra.searchpath=[{listed}]")
    return list(get_args_parser().parse_args().overrides)


def _hand_over(task: Callable[[DictConfig], None], command: Command) -> None:
    """Give the command to Hydra, with its errors passed on to us instead of printed."""
    config_dir, config_name = command.config_dir, command.config_name
    before, typed_in = os.environ.get("HYDRA_FULL_ERROR"), os.getcwd()
    sys.argv[0] = os.path.abspath(sys.argv[0])
    mistakes: list[UserError] = []

    def run(config: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # of a sweeper of Hydra's that a file of theirs chose
            raise not_of_hydra("hydra/sweeper")
        left = typed_in if os.getcwd() != typed_in else None
        try:
            if config.get("resume"):
                config.resume = os.path.join(left or "", config.resume)
                words = HydraConfig.get().overrides.task
                known = groups(search_path(config_dir, config_name, HydraConfig.get().overrides.hydra))
                config = resumed_config(RunFolder(config.resume), words, list(known))
            command.check(config)
            with open_dict(config):
                for key in OF_SWEEPS:
                    config.pop(key, None)
            with environment("HYDRA_FULL_ERROR", before), environment(TYPED_IN, left):
                task(config)
        except UserError as error:
            mistakes.append(error)

    with environment("HYDRA_FULL_ERROR", "1"):
        hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)(run)()
    if mistakes:
        raise mistakes[0]


def _is_further() -> bool:
    """Whether another process of the same run writes its records, whatever has started them."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _is_worker() -> bool:
    """Whether Lightning started this process as a further rank of a run that has been checked already."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0
