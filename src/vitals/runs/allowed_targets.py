"""What the configuration in the folder of a run may name: nobody's code is run because a folder says so.

Whoever composes a configuration may name with `_target_` any function there is; one that is read from a
folder, to evaluate or to go on with a run, may come from anywhere. Of what it names nothing but this is
built:

* classes of networks, optimizers, schedules, metrics, and of what a trainer takes, of `PLACES`;
* the functions of `FUNCTIONS`, and torchvision's builders of networks;
* what is defined in the user's own code, which is what Python finds outside of the installed packages, and
  neither in the folder of the run or of its sweep, nor in one that holds these;
* what `trust=` names: a dotted name, or the beginning of one.

It is judged by what a name leads to: `torch.nn.functional.torch.load` is of `torch.serialization`, and
`load_from_checkpoint` of a class of one's own is Lightning's.
"""

import ast
import os
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Self

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from vitals.errors import UserError, one_line
from vitals.installed import is_installed
from vitals.runs.kept_code import VARIABLE
from vitals.runs.run_folder import RunFolder

PACKAGES = (
    *("vitals", "torch.nn", "torch.optim", "torchvision.models", "timm.optim"),
    *("lightning", "torchmetrics"),
)
"""Beginnings of the names that are looked up at all, beside those of the user's own code."""
OTHERS = {name.partition(".")[0] for name in PACKAGES}
"""Packages that are not the user's own, even where they are not installed."""
METRICS = ("aggregation", "classification", "clustering", "nominal", "regression", "retrieval")
OF_TRAINER = ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies", "trainer")
PLACES = (
    *("torch.nn", "torch.optim", "torchvision.models", "timm.optim"),
    *("torchmetrics.collections", "torchmetrics.wrappers"),
    *(f"torchmetrics.{part}" for part in METRICS),  # others load the weights of networks from any file
    *(f"lightning.pytorch.{part}" for part in OF_TRAINER),
    *("lightning.fabric.plugins", "vitals.averaging", "vitals.checks", "vitals.diagnosis", "vitals.monitors"),
    *("vitals.runs.callbacks", "vitals.runs.loggers", "vitals.writers"),
)
"""Modules, with those below them, whose classes of the `KINDS` may be named."""
KINDS = (
    *("torch.nn.Module", "torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
    *("lightning.pytorch.Trainer", "lightning.pytorch.Callback", "lightning.pytorch.loggers.Logger"),
    *("lightning.pytorch.profilers.Profiler", "lightning.pytorch.strategies.Strategy"),
    *("lightning.pytorch.accelerators.Accelerator", "lightning.fabric.plugins.Precision"),
    *("lightning.fabric.plugins.CheckpointIO", "lightning.fabric.plugins.ClusterEnvironment"),
    *("lightning.pytorch.plugins.LayerSync", "vitals.checks.check.Check"),
)
FUNCTIONS = (
    *("torch.nn.init", "torch.nn.functional", "torch._C._nn"),
    *("vitals.sweeps.jobs.backends", "vitals.sweeps.search.search"),  # of launcher= and search=
    *(f"torchmetrics.functional.{part}" for part in METRICS),
)
"""Modules, with those below them, whose functions may be named."""
LISTS_OF_NAMES = ("which", "checks", "rules")
"""Keys whose values are dotted names too: of checks, and of rules of the diagnosis."""


@dataclass(frozen=True)
class OwnCode:
    """The modules that are the user's own, as the head of this file says: found in `roots`, and in no folder
    of `from_elsewhere`, wherever that lies."""

    roots: tuple[Path, ...]
    from_elsewhere: tuple[Path, ...]

    @classmethod
    def beside(cls, folder: Path, *further: Path) -> Self:
        """What is the user's own where `folder`, of a run or a sweep, is read: in `further` folders and in
        those that Python looks into."""
        roots = [path for entry in sys.path if not is_installed(path := Path(entry).absolute())]
        # A job of a sweep runs the copy of the code that lies in the folder of the sweep.
        sweep = None if VARIABLE in os.environ else RunFolder(folder).sweep
        elsewhere = [folder.resolve(), *([sweep.resolve()] if sweep else [])]
        return cls((*further, *roots, Path.cwd()), tuple(elsewhere))

    def may_hold(self, name: str) -> bool:
        """Whether the first word of a dotted name is a module or a folder of the user's own."""
        first = name.partition(".")[0]
        return any(
            (place.is_dir() or place.with_suffix(".py").is_file()) and not self._is_from_elsewhere(place)
            for place in (root / first for root in self.roots)
        )

    def defines(self, name: str) -> bool:
        """Whether a dotted name is of a class or function that the source of a module of the user's own has,
        or had, where nothing of that name is in it now. Nothing is imported: a sweep that goes on runs the
        code as it was at its start."""
        module, _, last = name.rpartition(".")
        for source in self._sources(module):
            with suppress(OSError, SyntaxError, ValueError):
                tree = ast.parse(source.read_bytes())
                kinds = ast.ClassDef | ast.FunctionDef
                if any(isinstance(node, kinds) and node.name == last for node in tree.body):
                    return True
                others = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
                for node in ast.walk(tree):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        others |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
                return not {last, "*", "globals", "__getattr__"} & others
        return False

    def holds(self, module: str) -> bool:
        """Whether a module that has been imported is the user's own."""
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is not None and any(os.path.samefile(source, file) for source in self._sources(module))

    def _sources(self, module: str) -> Iterator[Path]:
        """The files of the user's own that a module of this name may have."""
        first, *further = module.split(".")
        for root in () if first in {*OTHERS, ""} else self.roots:
            place = root.joinpath(first, *further)
            for source in (place.parent / f"{place.name}.py", place / "__init__.py"):
                if source.is_file() and not any(map(self._is_from_elsewhere, (root / first, source))):
                    yield source

    def holds_folder(self, folder: Path) -> bool:
        """Whether a folder lies in one of the user's own, and in none there with what is from elsewhere."""
        path, roots = folder.resolve(), [root.resolve() for root in self.roots]
        below = [(root, path.relative_to(root).parts[:1]) for root in roots if path.is_relative_to(root)]
        own = any(not self._is_from_elsewhere(root.joinpath(*first)) for root, first in below)
        return own and folder.is_dir()

    def _is_from_elsewhere(self, path: Path) -> bool:
        path = path.resolve()
        if path not in self.roots and is_installed(path):  # into one of them, as with pip install --target
            return True
        return any(path.is_relative_to(place) or place.is_relative_to(path) for place in self.from_elsewhere)


def require_allowed(config: Any, file: Path, trust: Iterable[str] = ()) -> None:
    """Make sure that all that a configuration, as it was read from `file`, names may be built because a
    folder says so, or as `trust` names it; `UserError` with the first key and what it names that may not."""
    trusted = list(trust)
    own = OwnCode.beside(file.parent)
    for key, name in _named(_plain(config)):
        words = name.split(".") if isinstance(name, str) else [""]
        if not all(word.isidentifier() and not word.startswith("__") for word in words):
            raise UserError(f"{file}: {key}={str(name)[:100]} is not the dotted name of a class or function.")
        if not (_begins(name, (*PACKAGES, *trusted)) or own.may_hold(name)):
            raise _refused(file, key, name)
        if own.defines(name):
            continue
        try:
            # The two ways in which names are looked up may lead to different things.
            found = [pkgutil.resolve_name(name), get_object(name)]
        except Exception as error:
            raise UserError(f"{file}: {key}={name} cannot be found: {one_line(error)}") from None
        for thing in found:
            if name not in trusted and not _is_allowed(thing, own, trusted):
                raise _refused(file, key, name, thing)


def names_to_trust(config: Any, folder: Path) -> list[str]:
    """What a configuration that its owner has composed names of other packages: what the same command trusts
    where it goes on with its run in `folder`."""
    own = OwnCode.beside(folder)
    names = {str(name) for _, name in _named(_plain(config))}
    return sorted(name for name in names if not (_begins(name, PACKAGES) or own.may_hold(name)))


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False) if isinstance(config, DictConfig) else config


def _named(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below `key` that names what is to be built, and what it names."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            place = f"{key}.{name}" if key else str(name)
            last = str(name).rpartition(".")[2]  # of a range of a search the whole key is one
            if last == "_target_":
                if part is not None:
                    yield place, part
            else:
                if last in LISTS_OF_NAMES and isinstance(part, str | Sequence):
                    for one in [part] if isinstance(part, str) else part:
                        # One word is a check of ours, but for a rule a module.
                        if isinstance(one, str) and (last == "rules" or not one.isidentifier()):
                            yield place, one
                yield from _named(part, place)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for number, part in enumerate(value):
            yield from _named(part, f"{key}[{number}]")


def _is_allowed(thing: Any, own: OwnCode, trusted: Sequence[str]) -> bool:
    while isinstance(thing, partial):
        thing = thing.func
    thing = getattr(thing, "__func__", thing)  # of a method bound to a class
    if not isinstance(thing, type | FunctionType | BuiltinFunctionType):
        thing = type(thing)
    module, name = str(thing.__module__), thing.__qualname__
    if _begins(f"{module}.{name}", trusted) or own.holds(module):
        return True
    if isinstance(thing, type):
        return _begins(module, PLACES) and issubclass(thing, tuple(map(pkgutil.resolve_name, KINDS)))
    if (module in FUNCTIONS or _begins(module, FUNCTIONS[3:])) and "." not in name:
        return True
    from torchvision import models  # here: most configurations name no function

    return thing in [models.get_model, *map(models.get_model_builder, models.list_models())]


def _refused(file: Path, key: str, name: str, thing: Any = None) -> UserError:
    thing = getattr(thing, "__func__", thing)
    found = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__name__)}"
    said = name if thing is None or found == name else f"{name} (which is {found})"
    return UserError(
        f"{file}: {key} names {said}, which is not built because a folder says so: it is no network, "
        f"optimizer, metric or part of a trainer of {', '.join(PACKAGES)}, nor your own code as Python finds "
        f"it from here. If you know what it does, add trust={name}"
    )


def _begins(name: str, beginnings: Iterable[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in beginnings)
