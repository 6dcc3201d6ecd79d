"""Check the names on a command line against the configuration, and suggest the nearest valid ones, where
Hydra would only refuse them. Importable without torch."""

import inspect
import itertools
import math
import os
import pkgutil
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType, Transformer
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vitals.errors import UserError, one_line
from vitals.runs.config import resolvers as resolvers
from vitals.runs.config.combinations import axes
from vitals.runs.config.other_names import did_you_mean_choice, did_you_mean_key
from vitals.runs.config.trainer_arguments import trainer_arguments
from vitals.runs.quoting import hydra_value
from vitals.runs.run_folder import RunFolder


def _arguments(node: Any) -> Collection[str]:
    """The parameters of what a config group builds; none where it builds nothing, or it cannot be found."""
    try:
        return inspect.signature(pkgutil.resolve_name(node._target_)).parameters
    except Exception:  # whatever the import of a module of somebody's own may raise; it is told later
        return ()


MOST_JOBS = 64
"""Jobs of a sweep up to which each is validated beforehand; one takes some 30 ms."""
NOTHING = ("null", "[]", "false")
"""What people write for none of a group."""
SEVERAL = ("logger", "callbacks", "experiment")
"""Groups of which several choices stand together, `logger=[tensorboard,csv]`."""


class Overrides:
    """The overrides of one command line, `key=value` words as typed, checked against the primary
    configuration `config_name` and the groups in `config_dir` and on the search path; `UserError` if a word
    is no override, or its group, choice or key does not exist."""

    def __init__(self, config_dir: Path, config_name: str, arguments: Sequence[str]) -> None:
        self.config_dir, self.config_name = config_dir, config_name
        self.folders = search_path(config_dir, config_name, arguments)
        self.groups = groups(self.folders)
        spelled = self._together(list(map(self._as_hydra_has_it, arguments)))
        self.arguments = [word for word in spelled if word is not None]
        self.parsed = self._parse()
        choices = [override for override in self.parsed if self._is_group(override)]
        for override in choices:
            self._check_choice(override)
        for override in filter(Override.is_delete, self.parsed):
            group = override.key_or_group
            named = override.value_type is None or isinstance(override.value(), str)
            if group in self.groups and not named:
                raise UserError(f"{override.input_line} names no choice of {group}: write ~{group}.")
        if any(map(self._is_config_key, self.parsed)) and not self._hydra_takes_them():
            where = [word for word in self.arguments if word.startswith("hydra.searchpath=")]
            base = self._compose([*where, *(self._words(choice)[0] for choice in choices)])
            checked = iter([self._checked(override, base) for override in self.parsed])
            spelled = [None if word is None else next(checked) for word in spelled]
            self.arguments = [word for word in spelled if word is not None]
            self.parsed = self._parse()
        self.spelled = dict(zip(arguments, spelled, strict=True))
        """Every word as Hydra understands it; None of those that are part of another one."""

    def composed(self) -> Iterator[DictConfig]:
        """The configurations to validate: one, or in a sweep one for each job.

        Where there are more than `MOST_JOBS`, one for each value of each swept key, the other keys at their
        first values: a clash of two later values is then found by the job itself.
        """
        fixed = [str(override.input_line) for override in self.parsed if not override.is_sweep_override()]
        if len(fixed) == len(self.parsed):
            config = self.with_hydra.copy()
            with open_dict(config):
                del config["hydra"]
            yield config
            return
        zipped = self._compose(fixed).get("zip")
        ways = axes(self.parsed, self._words, zipped)
        if math.prod(map(len, ways)) <= MOST_JOBS:
            steps: Iterable[Sequence[tuple[str, ...]]] = itertools.product(*ways)
        else:
            first = [way[0] for way in ways]
            steps = [first]
            for position, way in enumerate(ways):
                steps += [[*first[:position], words, *first[position + 1 :]] for words in way[1:]]
        for step in steps:
            yield self._compose([word for words in step for word in words])

    def value(self, key: str) -> Any:
        """The value given for `key`, or None where it was not given."""
        values = [override.value() for override in self.parsed if override.key_or_group == key]
        return values[-1] if values else None

    def require_one_run(self, sweeps: bool = True) -> None:
        """Make sure that no key has several values, which are those of a sweep; `UserError` with the words
        that make a sweep of them, where the command `sweeps`, or one value."""
        for override in filter(Override.is_sweep_override, self.parsed):
            key, values = override.key_or_group, str(override.get_value_string())
            how = "add -m (--multirun) for a run of each" if sweeps else "this command takes one"
            said = f"{key}={values} names several values: {how}"
            if "(" not in values and (key in SEVERAL or key not in self.groups):
                said += f"; a list is {key}=[{values}]"
            if "(" not in values and key not in self.groups:
                said += f", text with a comma \"{key}='{values}'\""
            raise UserError(f"{said}.")

    def choices(self) -> dict[str, str]:
        """The chosen name of each config group, such as `{"optimizer": "adam", …}`."""
        chosen = self.with_hydra.hydra.runtime.choices
        return {group: chosen[group] for group in self.groups if chosen.get(group)}

    def run_folder(self) -> Path:
        """The folder that Hydra is going to make for a single run of these words."""
        setup_globals()  # for `${now:…}`
        config = self.with_hydra
        try:
            with open_dict(config):
                config.hydra.runtime.cwd = os.getcwd()
            HydraConfig.instance().set_config(config)
            return Path(config.hydra.run.dir)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"hydra.run.dir cannot be composed: {one_line(error)}") from None

    def _parse(self) -> list[Override]:
        try:
            return OverridesParser.create().parse_overrides(self.arguments)
        except HydraException as error:
            word = next((word for word in self.arguments if "=" not in word), None)
            if word and not word.startswith("~"):
                raise UserError(f"'{word}' is no key=value: {self._suggest_word(word)}") from None
            raise UserError(f"the command line cannot be read: {one_line(error)}") from None

    def _suggest_word(self, word: str) -> str:
        _, _, after = " ".join(self.arguments).partition(f"{word} = ")
        if after:
            return f"did you mean {word}={after.partition(' ')[0]}, without spaces around =?"
        for group, choices in self.groups.items():
            if word in choices:
                return f"did you mean {group}={word}?"
        if "trainer" not in self._defaults:
            return f"write for example run={shlex.quote(word)}."
        return (
            "write for example optimizer.lr=0.01, without spaces around =, or where a value has spaces "
            "\"name='my run'\"."
        )

    def _as_hydra_has_it(self, argument: str) -> str | None:
        """What people write and Hydra does not read, in its own spelling; None of `search=null` and the like,
        of a group of which nothing is chosen anyway.

        `network.initialization=gaussian` is `network/initialization=gaussian`; `~logger`, `logger=null` and
        the like are `logger=none`, where there is that choice; `+experiment=…` takes the place of the choice
        that there is; a value that Hydra cannot read, as a path with a space or a parenthesis, is quoted.
        """
        key, equals, value = argument.partition("=")
        if value.lower() in NOTHING and self._defaults.get(key, "") is None:
            return None
        if key.lstrip("+") == "trainer.devices" and re.fullmatch(r"(['\"])\d+,[\d,]*\1", value):
            return f"{key}=[{value[1:-1].strip(',')}]"  # Lightning's "0,1"
        if key.startswith("+") and key[1:] in self._defaults and key[1:] not in SEVERAL:
            key, argument = key[1:], argument[1:]
        group = key.removeprefix("~").replace(".", "/")
        choices = self.groups.get(group, [])
        if "none" in choices and (value.lower() in NOTHING or (key.startswith("~") and not equals)):
            return f"{group}=none"
        if equals and choices and not key.startswith("~"):
            argument = f"{group}={value}"
        if equals:
            try:
                OverridesParser.create().parse_override(argument)
            except HydraException:
                return f"{key}={hydra_value(value)}"
        return argument

    def _together(self, words: Sequence[str | None]) -> list[str | None]:
        """The words, with all that choose from a group of `SEVERAL` in the place of the last of them.

        `+logger=csv` adds to what is chosen otherwise. A choice of callbacks that brings nothing but one more
        callback is added to a preset, to `default` where none is named.
        """
        spelled = list(words)
        for group in SEVERAL:
            found = {at: word for at, word in enumerate(words) if word and re.match(rf"\+?{group}=", word)}
            if not found or group not in self.groups:
                continue
            chosen = self._chosen_together(group, found.values())
            if chosen is None:
                continue
            if len(found) > 1 or len(chosen) > 1 or next(iter(found.values())).startswith("+"):
                for place in found:
                    spelled[place] = None
                spelled[max(found)] = f"{group}=[{','.join(chosen)}]"
        return spelled

    def _chosen_together(self, group: str, words: Iterable[str]) -> list[str] | None:
        """What `words` choose from `group`, one of `SEVERAL`; None where one of them is a sweep."""
        chosen: list[str] = []
        for word in words:
            plus, _, value = word.partition(f"{group}=")
            names = [name.strip(" '\"") for name in value.removeprefix("[").removesuffix("]").split(",")]
            if not value.startswith("[") and (len(names) > 1 or "(" in value):
                return None
            if not plus:
                chosen = []
            elif not chosen:
                default = self._defaults.get(group) or ()
                chosen = [default] if isinstance(default, str) else list(default)
            chosen = list(dict.fromkeys([*chosen, *filter(None, names)]))
        if group == "callbacks" and chosen and all(map(self._adds, chosen)):
            return ["default", *chosen]
        return chosen

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        """What the primary configuration chooses from each group that it speaks of, or null."""
        config: Any = OmegaConf.load(self.config_dir / f"{self.config_name}.yaml")
        entries = (entry for entry in config.get("defaults", []) if OmegaConf.is_dict(entry))
        return {str(group): chosen for entry in entries for group, chosen in entry.items()}

    def _adds(self, choice: str) -> bool:
        """Whether `choice` of the callbacks is no preset, but brings something for one."""
        known = choice in self.groups["callbacks"]
        return known and not {"defaults", "learning_curves"} & set(self._own_keys("callbacks", choice))

    def _is_group(self, override: Override) -> bool:
        return override.key_or_group in self.groups and not override.is_delete()

    def _is_config_key(self, override: Override) -> bool:
        return not self._is_group(override) and not override.key_or_group.startswith("hydra")

    def _hydra_takes_them(self) -> bool:
        """Whether Hydra composes the words as they are, and none adds a key: then every key is there."""
        added = any(override.is_add() or override.is_force_add() for override in self.parsed)
        if added or any(override.is_sweep_override() for override in self.parsed):
            return False
        with suppress(UserError):
            return bool(self.with_hydra)
        return False

    def _checked(self, override: Override, base: DictConfig) -> str:
        """The word of `override`, in the spelling that Hydra has for it; `UserError` if there is no such key.
        The arguments of Lightning's Trainer can be set whether `base` has them or not, with `+` or
        without."""
        word = str(override.input_line)
        if not self._is_config_key(override):
            return word
        top, _, inner = override.key_or_group.partition(".")
        name, _, deeper = inner.partition(".")
        of_trainer = top == "trainer" and name in trainer_arguments() and "trainer" in base
        if of_trainer and not override.is_delete():
            plus = "++" if deeper else "" if name in base.trainer else "+"
            return plus + word.lstrip("+")
        if override.type in (OverrideType.CHANGE, OverrideType.DEL) or top not in base:
            missing = object()
            here, there = (
                OmegaConf.select(of, override.key_or_group, default=missing) for of in (base, self._saved)
            )
            if override.type == OverrideType.CHANGE and here is missing is not there:
                return f"++{word}"  # of the run that goes on, whatever is chosen here
            self._check_key(override, base)
        return word

    @cached_property
    def _saved(self) -> DictConfig:
        """The configuration of the run that `resume=` names; empty where there is none that can be read."""
        with suppress(UserError):
            if resume := self.value("resume"):
                return RunFolder(Path(str(resume)).expanduser()).read_config()
        return OmegaConf.create()

    def _check_choice(self, override: Override) -> None:
        group = override.key_or_group
        choices = self.groups[group]
        for word in self._words(override):
            chosen = word.partition("=")[2]
            several = chosen[1:-1].split(",") if group in SEVERAL and chosen.startswith("[") else [chosen]
            for choice in (each.strip(" '\"") for each in several):
                if choice not in choices and chosen != "[]":
                    meant = did_you_mean_choice(choice, choices)
                    a_path = "/" in choice or "\\" in choice
                    if a_path and any("root" in self._own_keys(group, each) for each in choices):
                        meant = f"a folder is named with {group}.root=<folder>; {meant}"
                    raise UserError(f"{group}={choice} does not exist: {meant}")

    def _words(self, override: Override) -> list[str]:
        """The override as words without a sweep: each of its values, or the ends of an interval."""
        if not override.is_sweep_override():
            return [str(override.input_line)]
        swept: Any = override.value()
        if override.is_interval_sweep():
            # An interval excludes its end, which matters for shares that must be less than 1.
            values = [swept.start, math.nextafter(1.0, 0.0) if swept.end == 1.0 else swept.end]
        elif isinstance(swept, Glob):
            values = swept.filter(self.groups.get(override.key_or_group, []))
        else:
            values = list(override.sweep_iterator(transformer=Transformer.encode))
        if not values:
            raise UserError(f"{override.input_line} names nothing to sweep over.")
        words = [f"{override.get_key_element()}={value}" for value in values]
        return [word for [word] in (self._together([word]) for word in words) if word]

    def _check_key(self, override: Override, base: DictConfig) -> None:
        key = override.key_or_group
        node: Any = base
        parts = key.split(".")
        for depth, part in enumerate(parts):
            if part not in (list(node) if OmegaConf.is_dict(node) else []):
                where = ".".join(parts[:depth])
                inside = f"'{where}' has no key '{part}'" if where else f"there is no key or group '{part}'"
                value = None if override.is_delete() else str(override.get_value_string())
                elsewhere = list(itertools.islice(self._of_other_choices(key, value, base), 3))
                if (
                    not elsewhere
                    and depth == len(parts) - 1
                    and part not in base
                    and part in _arguments(node)
                ):
                    given = f"+{key}" if value is None else f"+{key}={shlex.quote(value)}"
                    raise UserError(f"{key}: {inside}, but {node._target_} takes it: write {given}.")
                meant = did_you_mean_key(key, value, base, self.groups, elsewhere)
                raise UserError(f"{key}: {inside}; {meant}")
            node = node._get_node(part)
            if node is not None and node._is_interpolation():
                return

    def _of_other_choices(self, key: str, value: str | None, base: DictConfig) -> Iterator[str]:
        """Words that choose what has `key`, which the present choices have not, and set it."""
        for group, choices in self.groups.items():
            place = group.replace("/", ".")
            inner = key.removeprefix(f"{place}.")
            first = inner.partition(".")[0]
            there = first in (OmegaConf.select(base, place) or ())
            for choice in choices if not there and (inner != key or "." not in key) else ():
                if first in self._own_keys(group, choice):
                    given = "<value>" if value is None else shlex.quote(value)
                    yield f"{group}={choice} {place}.{inner}={given}"

    def _own_keys(self, group: str, choice: str) -> list[str]:
        """The keys that the file of a choice gives its group."""
        files = (folder / group / f"{choice}.yaml" for folder in self.folders)
        text = next(filter(Path.is_file, files)).read_text(encoding="utf-8")
        return [] if "@package" in text else [str(key) for key in OmegaConf.create(text) or ()]

    @cached_property
    def with_hydra(self) -> DictConfig:
        """The configuration that these words ask for, with Hydra's own part."""
        return self._compose(self.arguments, return_hydra_config=True)

    def _compose(self, arguments: Sequence[str], **options: bool) -> DictConfig:
        try:
            with initialize_config_dir(str(self.config_dir), version_base="1.3"):
                return compose(self.config_name, list(arguments), **options)
        except (HydraException, OmegaConfBaseException) as error:
            said = one_line(error).partition(" Config search path:")[0]
            raise UserError(f"the configuration cannot be composed: {said}") from error


def search_path(config_dir: Path, config_name: str, arguments: Sequence[str] = ()) -> list[Path]:
    """The folders in which Hydra looks for config files, the first first: that of the primary configuration,
    and those of `hydra.searchpath` in `arguments`, or else in that itself; `UserError` if one is no
    folder."""
    places = own_search_path(config_dir, config_name)
    for word in arguments:
        if word.startswith("hydra.searchpath="):
            places = places_in(word)
    folders = [config_dir]
    for place in places:
        kind, _, rest = place.rpartition("://")
        spec = find_spec(rest) if kind == "pkg" else None
        inside = list(spec.submodule_search_locations or []) if spec else []  # it may be one of files alone
        folder = Path(inside[0] if inside else rest)
        if not folder.is_dir():
            raise UserError(
                f"{place} is not a folder: --config-dir and hydra.searchpath name folders of YAML files."
            )
        folders.append(folder)
    return folders


def places_in(word: str) -> list[str]:
    """The places that a word `hydra.searchpath=[…]` names; `UserError` if it cannot be read, or is no
    list."""
    try:
        places: Any = OverridesParser.create().parse_override(word).value()
    except HydraException as error:
        raise UserError(f"{word} cannot be read: {one_line(error)}") from None
    if not isinstance(places, list):
        raise UserError(f"{word} is no list: write hydra.searchpath=[{places}].")
    return list(map(str, places))


def own_search_path(config_dir: Path, config_name: str) -> list[str]:
    """What the primary configuration itself says of `hydra.searchpath`."""
    config = OmegaConf.load(config_dir / f"{config_name}.yaml")
    return list(OmegaConf.select(config, "hydra.searchpath", default=[]))


def groups(folders: Iterable[Path]) -> dict[str, list[str]]:
    """The config groups in `folders`, such as `network/initialization`, with their choices."""
    found: dict[str, set[str]] = {}
    for place in folders:
        for folder in place.rglob("*"):
            if folder.is_dir() and (files := {file.stem for file in folder.glob("*.yaml")}):
                found.setdefault(folder.relative_to(place).as_posix(), set()).update(files)
    return {group: sorted(found[group]) for group in sorted(found)}
