"""What a YAML file holds that is small enough to be read. Aliases make 350 bytes into more than any memory
holds: what they stand for is counted before anything is built."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**20
"""Bytes of a file; the configuration of a run has some ten thousand."""
MOST_NODES = 50_000
"""Scalars, lists and mappings, those that aliases stand for counted each time."""
DEEPEST = 40
"""Lists and mappings within each other."""


def read_mapping(path: Path, loader: Any = yaml.SafeLoader) -> dict[str, Any]:
    """What the YAML file at `path` says of each of its keys, as the `loader` reads it. `OSError` if it cannot
    be read; `ValueError` if it is no YAML, holds no keys, is too large or too deep, or grows beyond all
    bounds by its aliases."""
    try:
        content = yaml.load(_bounded_text(path), loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    if not isinstance(content, dict):
        raise ValueError("it holds no keys")
    return {str(key): value for key, value in content.items()}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What is in nested mappings, by dotted keys: `{"optimizer.lr": 0.1, …}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _bounded_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    text = content.decode("utf-8")
    sizes: dict[str, int] = {}  # of what has an anchor
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"its alias *{event.anchor} stands for nothing, or for itself")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        if count > MOST_NODES:
            raise ValueError(f"with what its aliases stand for it has more than {MOST_NODES:,} values")
        if len(open_nodes) > DEEPEST:
            raise ValueError(f"its lists and mappings are more than {DEEPEST} deep")
    return text
