"""What code keeps outside of the module that trains: random generators, counters, tables, open files.

A step may draw from a generator of its script, count in a variable of it, or write into its file. On a copy
of the module it does so, too, and the training would go on with other numbers, and its files would have lines
of what nobody trained.
"""

import csv
import io
import operator
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, lru_cache, partial
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, Sampler

from vitals.either_package import either
from vitals.installed import is_installed
from vitals.probes.copies import LARGE, LIVE, NoOp, Spent

MOST = 10**5
"""Elements up to which an array or a table is kept."""
FURTHEST = 3
"""Objects in objects that are gone into."""
RECORDERS = (
    *("tensorboard", "torch.utils.tensorboard", "tensorboardX", "wandb", "mlflow", "trackio"),
    *("comet_ml", "neptune", "clearml", "aim", "swanlab"),
)
"""Packages that record what they, or their objects, are given."""
LEFT_ALONE = (nn.Module, Dataset, DataLoader, Sampler)
"""What those who look at it copy, or read from."""
QUIET: tuple[type, ...] = (FunctionType, BuiltinFunctionType, property, classmethod, staticmethod)
QUIET += (str, bytes, int, float, type(None), torch.dtype, torch.device)
"""What holds nothing that could change; looked for first, for nearly all is of these."""
HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
LEADS_OUTSIDE = (*LIVE, type(csv.writer(io.StringIO())))

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)

_kept: ContextVar[bool] = ContextVar("kept", default=False)
"""Whether the surroundings are kept already."""


@contextmanager
def surroundings_kept() -> Iterator[None]:
    """Put back, behind the block, what it changes in the user's own modules, those that are not installed as
    packages: states of random generators, also of those in the functions that called for the training and in
    its data module, what names stand for, and what tables and arrays of up to `MOST` elements hold, those too
    that functions of its module and its loaders see of the function that has made them. Within it, what
    leads outside, as an open file or a writer of TensorBoard, takes every call and does nothing; what gives
    each thing only once refuses.

    A name that stood for None before, or for nothing, keeps what it was given: it is loaded once for all.
    """
    if _kept.get():
        yield
        return
    token, state = _kept.set(True), _State()
    try:
        namespaces = _namespaces(len(sys.modules))
        for names in namespaces.values():
            state.note_names(names)
        for frame in _frames():  # of which data and collate_fn see the generators
            name = frame.f_globals.get("__name__", "")
            if frame.f_code.co_name == "_run" and name.endswith("trainer.trainer"):  # of Lightning
                trainer = frame.f_locals["self"]
                state.note(trainer.datamodule)
                for function in _functions(_parts_of(trainer)):
                    state.note_function(function)
            elif name in namespaces:
                for value in frame.f_locals.values():
                    if issubclass(type(value), GENERATORS):
                        state.note(value)
        yield
    finally:
        _kept.reset(token)
        state.put_back()


@contextmanager
def closures_kept(*owners: Any) -> Iterator[None]:
    """The same for what functions see of the function that has made them, and for their default values and
    attributes: those that the `owners` are or have as methods, attributes and hooks, and the functions that
    these see."""
    state = _State()
    try:
        for function in _functions(owners):
            state.note_function(function)
        yield
    finally:
        state.put_back()


def _frames() -> Iterator[FrameType]:
    """Of the functions that have called this one, the last one first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


@lru_cache(maxsize=1)
def _namespaces(modules: int) -> dict[str, dict[str, Any]]:
    """Those of the user's own modules, by their names, where so many modules are loaded."""
    installed = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        theirs = file.startswith(installed) or "-packages" in file or name.partition(".")[0] == "vitals"
        if name == "__main__" or (file and not theirs and not is_installed(Path(file))):
            found[name] = vars(module)
    return found


def _parts_of(trainer: Any) -> list[Any]:
    """What a training consists of that is somebody's own, its data module apart."""
    loaders = tree_leaves([trainer.train_dataloader, trainer.val_dataloaders])
    names = ("dataset", "collate_fn", "sampler", "batch_sampler")
    return [trainer.lightning_module, *(getattr(each, name, None) for each in loaders for name in names)]


def _functions(owners: Iterable[Any]) -> Iterable[FunctionType]:
    """Those of the user's own modules that the `owners` are or have, and that these see."""
    own, held = _namespaces(len(sys.modules)), [*owners]
    for owner in owners:
        held += [
            each for kind in type(owner).__mro__ if kind.__module__ in own for each in vars(kind).values()
        ]
        for part in owner.modules() if isinstance(owner, nn.Module) else [owner]:
            names = getattr(part, "__dict__", {})
            held += [value for name, value in names.items() if not name.startswith("_")]
            held += [hook for name in HOOKS for hook in (names.get(name) or {}).values()]
    found: dict[int, FunctionType] = {}
    while held:
        each = _function(held.pop())
        if each is not None and each.__module__ in own and id(each) not in found:
            found[id(each)] = each
            with suppress(ValueError):  # a name that has no value yet
                held += [cell.cell_contents for cell in each.__closure__ or ()]
    return found.values()


def _function(value: Any) -> FunctionType | None:
    """What is called where `value` is; None where that is no function. Asked of its type alone: an object of
    theirs may answer to anything, or to nothing."""
    kind = type(value)
    if issubclass(kind, partial):
        value = value.func
    elif issubclass(kind, MethodType | classmethod | staticmethod):
        value = value.__func__
    elif issubclass(kind, property):
        value = value.fget
    return value if type(value) is FunctionType else None


class _State:
    """How things are now, and what puts them back."""

    def __init__(self) -> None:
        self.undo: list[Callable[[], Any]] = []
        self.seen: set[int] = set()

    def put_back(self) -> None:
        for back in reversed(self.undo):
            with suppress(Exception):  # whatever an object of theirs raises, the training goes on
                back()

    def note_names(self, names: dict[str, Any]) -> None:
        before = dict(names)
        self.undo.append(partial(_put_names_back, names, names.__setitem__, before))
        for name, value in before.items():
            if not name.startswith("__"):
                with suppress(Exception):  # of a proxy of nothing not even the class can be asked
                    self._note_name(names, name, value)

    def _note_name(self, names: dict[str, Any], name: str, value: Any) -> None:
        if isinstance(value, type):
            if value.__module__ in _namespaces(len(sys.modules)):
                self.note(value)
        elif not isinstance(value, QUIET):
            if (stand_in := _stand_in(value)) is None:
                self.note(value)
            else:
                names[name] = stand_in

    def note_function(self, function: FunctionType) -> None:
        for cell in function.__closure__ or ():
            with suppress(Exception):  # as above
                self.note_cell(cell)
        self.note((function.__defaults__, function.__kwdefaults__, vars(function)))

    def note_cell(self, cell: CellType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:  # a name that has no value yet
            return
        if (stand_in := _stand_in(value)) is not None:
            cell.cell_contents = stand_in
        elif value is not None:
            self.note(value)
        self.undo.append(partial(setattr, cell, "cell_contents", value))

    def note(self, value: Any) -> None:
        """Remember `value`, and all that it holds; what cannot be, such as a proxy of nothing, is left."""
        with suppress(Exception):
            self._note(value, 0)

    def _note(self, value: Any, depth: int) -> None:
        if isinstance(value, (*QUIET, *LEFT_ALONE)) or id(value) in self.seen or _is_namespace(value):
            return
        self.seen.add(id(value))
        held: list[Any] = []
        if (back := _generator(value)) is not None:
            self.undo.append(back)
        elif isinstance(value, io.IOBase):
            with suppress(OSError, ValueError):  # of a text that is read line by line nobody knows how far
                self.undo.append(partial(value.seek, value.tell()))
        elif isinstance(value, Tensor):
            if value.numel() <= MOST and value.layout == torch.strided and not value.is_inference():
                self.undo.append(partial(_put_values_back, value, value._version, value.detach().clone()))
        elif isinstance(value, np.ndarray):
            if value.size <= MOST and value.flags.writeable:
                self.undo.append(partial(np.copyto, value, value.copy()))
        elif isinstance(value, list | set | deque | dict):
            if len(value) <= MOST:
                self.undo.append(partial(_put_entries_back, value, value.copy()))
            elif isinstance(value, list):
                self.undo.append(partial(value.__delitem__, slice(len(value), None)))
            held = list(value.values() if isinstance(value, dict) else value) if len(value) < LARGE else []
        elif isinstance(value, tuple):
            held = list(value) if len(value) < LARGE else []
        elif _is_own(value):
            attributes = dict(vars(value))
            self.undo.append(partial(_put_names_back, vars(value), partial(setattr, value), attributes))
            held = list(attributes.values())
        for each in held if depth < FURTHEST else ():
            self._note(each, depth + 1)


def _generator(value: Any) -> Callable[[], Any] | None:
    """What gives a random generator the state that it has now; None for all else."""
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state(legacy=False))
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    return partial(value.set_state, value.get_state()) if isinstance(value, torch.Generator) else None


def _is_own(value: Any) -> bool:
    """Whether it is a class of the user's own modules, or an object of one, or of one that has but names."""
    kind = value if isinstance(value, type) else type(value)
    if kind.__module__ in _namespaces(len(sys.modules)):
        return hasattr(value, "__dict__")
    return isinstance(value, SimpleNamespace)


def _stand_in(value: Any) -> Any:
    """What is to stand for `value` while something is looked at; None where it can stay."""
    if isinstance(value, ModuleType):
        return NoOp() if _records(value.__name__) else None
    if isinstance(value, io.IOBase) and (value.closed or not value.writable()):
        return None  # what is read from, as by a data set
    return _stand_in_of(value.__class__)()


@cache
def _stand_in_of(kind: Any) -> Callable[[], Any]:
    loggers = either(Logger)  # type: ignore[type-abstract]
    if _records(kind.__module__) or issubclass(kind, (*LEADS_OUTSIDE, *loggers)):
        return NoOp
    return Spent if issubclass(kind, Iterator) else lambda: None


def _records(module: str) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in RECORDERS)


def _put_names_back(
    names: Mapping[str, Any], give: Callable[[str, Any], Any], before: dict[str, Any]
) -> None:
    for name, value in before.items():
        if value is not None and names.get(name) is not value:
            give(name, value)


def _put_entries_back(table: Any, before: Any) -> None:
    """Never empty it for a moment, in which another thread may look for what it holds."""
    if isinstance(table, list):
        table[:] = before
    elif isinstance(table, set):
        table |= before
        table &= before
    elif isinstance(table, deque):
        if len(table) != len(before) or any(map(operator.is_not, table, before)):
            table.clear()
            table.extend(before)
    else:
        for key in [key for key in table if key not in before]:
            del table[key]
        for key, value in before.items():
            if key not in table or table[key] is not value:
                table[key] = value
        if any(map(operator.is_not, table, before)):  # of an OrderedDict
            table.clear()
            table.update(before)


def _is_namespace(table: Any) -> bool:
    """Whether it is that of a module, or of all of them: what is loaded once for all stays."""
    return table is sys.modules or (isinstance(table, dict) and "__spec__" in table)


@torch.no_grad()
def _put_values_back(values: Tensor, version: int, before: Tensor) -> None:
    if values._version != version:
        values.copy_(before)
