"""Put what a look at a module changes back as it was: attributes, tables, buffers, modes."""

import copy
import operator
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from vitals.probes.copies import LARGE, PLAIN

INTERNAL = set(vars(nn.Module())) - {"_buffers"}
"""Tables that torch keeps in every module, which no step changes."""
CONTAINERS = (list, dict, set, deque)


@contextmanager
def unchanged(modules: Iterable[nn.Module], but: str = "") -> Iterator[None]:
    """Put attributes, lists and tables of `modules` back as they were before the block, `but` for that one.

    So a step that keeps its losses or its last outputs neither grows the copy nor holds a graph. What is
    written into a tensor stays there.
    """
    parts = [(part, dict(vars(part))) for part in modules]
    containers: dict[int, tuple[Any, Any]] = {}
    for _, attributes in parts:
        for name, value in attributes.items():
            if isinstance(value, CONTAINERS) and name not in INTERNAL:
                _remember(value, containers)
    try:
        yield
    finally:
        for part, attributes in parts:
            now = vars(part)
            if but in now:  # a compiled network has its mode in the one that it stands for
                attributes[but] = now[but]
            changed = any(map(operator.is_not, map(now.get, attributes), attributes.values()))
            if changed or len(now) != len(attributes):
                now.clear()
                now.update(attributes)
        for container, content in containers.values():
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.extend(content) if isinstance(container, deque) else container.update(content)


def _remember(value: Any, containers: dict[int, tuple[Any, Any]]) -> None:
    if not isinstance(value, CONTAINERS) or id(value) in containers:
        return
    if len(value) >= LARGE and isinstance(next(iter(value)), PLAIN):
        return
    containers[id(value)] = value, copy.copy(value)
    for entry in value.values() if isinstance(value, dict) else value:
        _remember(entry, containers)


@contextmanager
def replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` inside the block."""
    missing = object()
    before = module.__dict__.get(name, missing)
    module.__dict__[name] = value
    try:
        yield
    finally:
        if before is missing:
            del module.__dict__[name]
        else:
            module.__dict__[name] = before


@contextmanager
def buffers_kept(module: nn.Module, recurse: bool = True) -> Iterator[None]:
    """Put the values of all buffers back as they were before the block; without `recurse` those of `module`
    itself alone. Graphs that were made in it stay as good as they were."""
    buffers = {buffer: buffer.clone() for buffer in module.buffers(recurse)}
    try:
        yield
    finally:
        for buffer, value in buffers.items():
            buffer.data.copy_(value)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Put the modes of `module` and its parts back as they were before the block."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
