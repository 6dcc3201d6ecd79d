"""Deep copies of a user's module, whatever it keeps."""

from __future__ import annotations

import copy
import copyreg
import functools
import inspect
import io
import multiprocessing.process
import socket
import subprocess
import threading
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from vitals.either_package import either
from vitals.errors import UserError, failed_at

LIVE: tuple[type, ...] = (
    *(threading.Thread, socket.socket, subprocess.Popen, multiprocessing.process.BaseProcess),
    *(io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper),
)
"""What a handle to the outside world holds: whoever has one would write or read twice if copied."""
PLAIN: tuple[type, ...] = (type(None), bool, int, float, complex, str, bytes, type)
PLAIN += (np.ndarray, torch.dtype, torch.device)
PLAIN += (types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
LARGE = 1000
"""Entries from which a list or table of plain values is taken for data, and not gone through."""


STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")
"""What Lightning replaces in a module that `torch.compile` is given as a whole."""


def is_compiled(part: Any) -> bool:
    """Whether this is a LightningModule that `torch.compile` was given as a whole."""
    return isinstance(part, either(L.LightningModule)) and bool(part._compiler_ctx)


class NoOp:
    """Stands for a logger, a strategy or a file: takes every call and does nothing."""

    def __getattr__(self, name: str) -> NoOp:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: Any, **options: Any) -> NoOp:
        return self

    def __getitem__(self, key: Any) -> NoOp:
        return self

    def __enter__(self) -> NoOp:
        return self

    def __exit__(self, *reason: Any) -> None:
        return None

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[NoOp]:
        return iter(())


class Spent:
    """Stands for a generator: looking into it would take from the training what it gives only once."""

    def __iter__(self) -> Spent:
        return self

    def __next__(self) -> Any:
        raise UserError("the module draws from a generator of its own, of which there can be no copy.")


def copied(original: Any, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy of `original`, a module as a rule, that works where `copy.deepcopy` gives up; `UserError`
    if it cannot be copied all the same. `memo` is that of `copy.deepcopy`: by identity, what is to stand for
    objects met on the way.

    Tensors that are part of a graph, such as losses kept in a list, are copied without it. What leads to the
    outside world, such as an open file or a writer, becomes something that takes every call and does nothing;
    a generator becomes one that refuses; what else cannot be copied, such as a lock, is shared.
    """
    if isinstance(original, nn.Module):
        for name, part in original.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                where = f"self.{name}" if name else "the module"
                raise UserError(f"{where} is made by torch.jit, of which there is no copy to measure on.")
    memo = {} if memo is None else memo
    several = isinstance(original, tuple)
    modules = [each for each in (original if several else [original]) if isinstance(each, nn.Module)]
    compiled = [part._compiler_ctx for each in modules for part in each.modules() if is_compiled(part)]
    memo |= {id(context): None for context in compiled}
    kept = _prepare(original, memo)
    shared = set(map(id, memo.values()))  # on purpose
    asking = {type(part) for each in modules for part in each.modules() if _asks_to_be_made(type(part))}
    try:
        copyreg.dispatch_table.update(dict.fromkeys(asking, _reduced))
        copied = copy.deepcopy(original, memo)
        for its, mine in zip(original, copied, strict=True) if several else [(original, copied)]:
            if isinstance(its, nn.Module):
                _require_apart(its, mine, shared)
                _give_stand_ins(its, mine)
        _take_functions_along(memo)
        return copied
    except UserError:
        raise
    except Exception as error:
        place = failed_at(error)
        why = f"your code fails at {place}." if place else "something in it refuses."
        raise UserError(f"{type(original).__name__} cannot be copied: {why}") from error
    finally:
        for kind in asking:
            del copyreg.dispatch_table[kind]
        del kept  # the states gone through had to live as long as their identities stand in the memo


def _asks_to_be_made(kind: type) -> bool:
    """Whether an object of this class is not made without arguments, as `deepcopy` makes one."""
    if kind.__new__ is object.__new__ or kind in copyreg.dispatch_table:
        return False
    wanted = list(inspect.signature(kind.__new__).parameters.values())[1:]
    return any(each.default is each.empty and each.kind == each.POSITIONAL_OR_KEYWORD for each in wanted)


def _reduced(part: Any) -> Any:
    _, _, *state = part.__reduce_ex__(4)
    return object.__new__, (type(part),), *state


def _require_apart(original: nn.Module, copied: nn.Module, shared: set[int]) -> None:
    """Refuse a copy that shares modules, or parameters that are not `shared`, with the original, as one whose
    `__deepcopy__` gives itself: what is done to the copy would be done to the training."""
    parts = {*map(id, copied.modules()), *(set(map(id, copied.parameters())) - shared)}
    for name, part in (*original.named_modules(), *original.named_parameters()):
        if id(part) in parts:
            where = f"self.{name}" if name else "the module"
            raise UserError(
                f"{where} gives itself for a copy (__deepcopy__), so that there is none to measure on."
            )


def _give_stand_ins(original: nn.Module, copied: nn.Module) -> None:
    """Let LightningModules in a copy of a copy ask the trainer that the first copy asks, which `deepcopy`
    leaves out; and take what is compiled, and bound to the original, from the copy."""
    modules = either(L.LightningModule)
    for mine, its in zip(copied.modules(), original.modules(), strict=False):
        if isinstance(its, modules) and isinstance(mine, modules):
            for name in STEPS if is_compiled(its) else ():
                mine.__dict__.pop(name, None)
            trainer: Any = its._trainer
            if trainer is not None and not isinstance(trainer, either(L.Trainer)):
                mine._trainer = trainer


def _take_functions_along(memo: dict[int, Any]) -> None:
    """Let functions that modules keep, such as hooks and what `torch.compile` made of a method, see the copy
    of what they were defined around, where `deepcopy` leaves them with the original."""
    copies = {id(each): each for each in memo.values() if isinstance(each, nn.Module)}
    for part in [each for place, each in copies.items() if place not in memo]:
        tables = [value for value in vars(part).values() if isinstance(value, dict | list)]
        for table in (vars(part), *tables):
            if len(table) < LARGE:
                for key, value in list(table.items() if isinstance(table, dict) else enumerate(table)):
                    if (own := _of_the_copy(value, memo)) is not value:
                        table[key] = own


def _of_the_copy(value: Any, memo: dict[int, Any]) -> Any:
    """`value`, or what stands for it in the copy that `memo` tells of."""
    if id(value) in memo and not isinstance(value, types.FunctionType):
        return memo[id(value)]
    if isinstance(value, types.MethodType):
        owner = _of_the_copy(value.__self__, memo)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
        func, *rest = own = [_of_the_copy(each, memo) for each in parts]
        if all(each is other for each, other in zip(own, parts, strict=True)):
            return value
        options = dict(zip(value.keywords, rest[len(value.args) :], strict=True))
        return functools.partial(func, *rest[: len(value.args)], **options)
    if not isinstance(value, types.FunctionType):
        return value
    compiled = getattr(value, "_torchdynamo_orig_callable", None)
    if compiled is not None:
        eager = _of_the_copy(compiled, memo)
        return value if eager is compiled else eager
    try:
        around = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError:  # a name that has no value yet
        return value
    own = [each if each is value else _of_the_copy(each, memo) for each in around]
    if all(each is other for each, other in zip(own, around, strict=True)):
        return value
    cells = tuple(types.CellType(each) for each in own)
    function = types.FunctionType(
        value.__code__, value.__globals__, value.__name__, value.__defaults__, cells
    )
    function.__kwdefaults__ = value.__kwdefaults__
    return functools.update_wrapper(function, value)


def _prepare(original: Any, memo: dict[int, Any]) -> list[Any]:
    """Put into `memo` what stands for everything in `original` that `deepcopy` would fail on."""
    waiting: list[tuple[Any, Any]] = [(original, None)]
    live = (*either(Logger, L.Trainer), *LIVE)
    seen: set[int] = set()
    kept: list[Any] = []
    while waiting:
        part, holder = waiting.pop()
        if isinstance(part, PLAIN) or id(part) in memo or id(part) in seen:
            continue
        seen.add(id(part))
        kept.append(part)
        if isinstance(part, Tensor):
            if part.grad_fn is not None:
                memo[id(part)] = part.detach().clone()
        elif issubclass(type(part), live):  # of its class some object would have to be asked
            outermost = part if holder is None else holder
            memo[id(outermost)] = NoOp()
        elif isinstance(part, types.GeneratorType):
            memo[id(part)] = Spent()
        elif isinstance(part, list | tuple | set | frozenset | deque):
            if len(part) < LARGE or not isinstance(next(iter(part)), PLAIN):
                waiting += [(entry, holder) for entry in part]
        elif isinstance(part, dict):
            if len(part) < LARGE or not isinstance(next(iter(part.values())), PLAIN):
                waiting += [(entry, holder) for entry in part.values()]
            waiting += [(entry, holder) for entry in vars(part).values()] if hasattr(part, "__dict__") else []
        elif isinstance(part, types.MethodType):
            waiting.append((part.__self__, holder))
        elif isinstance(part, nn.Module) and hasattr(part, "__deepcopy__"):  # as parametrized ones have
            waiting += [(entry, None) for entry in vars(part).values()]
        else:
            inner = None if isinstance(part, nn.Module) else (holder if holder is not None else part)
            _look_into(part, inner, waiting, kept, memo)
    return kept


def _look_into(
    part: Any, holder: Any, waiting: list[tuple[Any, Any]], kept: list[Any], memo: dict[int, Any]
) -> None:
    """Go through the state that `deepcopy` would copy, or settle what stands for `part`."""
    try:
        if hasattr(part, "__deepcopy__"):
            copy.deepcopy(part, memo)
            return
        state = copy._deepcopy_dispatch.get(type(part)) or part.__reduce_ex__(4)  # type: ignore[attr-defined]
    except Exception:  # whatever a class of theirs raises
        memo[id(part)] = Spent() if issubclass(type(part), Iterator) else part
        return
    if isinstance(state, tuple):
        kept.append(state)
        waiting += [(entry, holder) for entry in state[1:3]]
