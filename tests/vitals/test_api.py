"""Every public name that the pages of the programming interface have says what it is."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from docs.make_api import modules


def said(thing: Any) -> str:
    """Its docstring, or that of what it overrides; without what `dataclass` writes of itself."""
    words = inspect.getdoc(thing) or ""
    generated = dataclasses.is_dataclass(thing) and words.startswith(f"{getattr(thing, '__name__', '')}(")
    return "" if generated else words


def public(name: str) -> Iterator[tuple[str, Any, Any]]:
    """Functions, classes, methods and properties defined in a module: name, what to read, what to call."""
    for key, thing in vars(import_module(name)).items():
        if key.startswith("_") or getattr(thing, "__module__", None) != name:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield key, thing, thing if inspect.isfunction(thing) else None
        for method, made in vars(thing).items() if inspect.isclass(thing) else ():
            if not method.startswith("_") and (callable(made) or isinstance(made, property)):
                yield f"{key}.{method}", getattr(thing, method), made if inspect.isfunction(made) else None


@pytest.mark.parametrize("name", modules())
def test_every_public_name_says_what_it_is_with_all_arguments_and_errors(name: str) -> None:
    silent, without = [], []
    for key, thing, function in public(name):
        words = said(thing)
        silent += [] if words else [key]
        if function is None or not words:
            continue
        listed = re.search(r"^Args:\n(.*?)(?:^\S|\Z)", words, flags=re.DOTALL | re.MULTILINE)
        parameters = [each for each in inspect.signature(function).parameters if each != "self"]
        without += [
            f"{key}: {each}" for each in parameters if listed and not re.search(rf"\b{each}\b", words)
        ]
        raises = re.search(r"\braise UserError\b", inspect.getsource(function)) and "UserError" not in words
        without += [f"{key}: UserError"] if raises else []
    assert (silent, without) == ([], [])
