"""The arguments of Lightning's Trainer with their types, read off its source: importing it takes seconds."""

import ast
import json
import typing
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vitals.errors import did_you_mean

TRAINER = "lightning.pytorch.Trainer"
OF_A_RUN = {
    "logger": "the loggers of a run are the group logger: logger=csv, for example",
    "callbacks": "the callbacks of a run are the group callbacks: callbacks=light, for example",
    "default_root_dir": "the folder of a run is hydra.run.dir=<folder>",
    "barebones": "it allows no record of a run; the least is callbacks=none checks=none average=none",
}
"""Arguments that a run gives itself, and what takes their place."""
FORMS = {"max_time": "a time, DD:HH:MM:SS, or keys such as {hours: 1}, or null"}
"""What is said of those whose types say too little."""
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
WORDS |= {dict: "keys with values", list: "a list"}


class _Names(dict[str, Any]):
    """What an annotation may name; a class of Lightning's is given as its `_target_` and arguments."""

    def __missing__(self, name: str) -> Any:
        return dict[str, Any]


@cache
def trainer_arguments() -> dict[str, Any]:
    """The type of each argument, as a configuration may have it."""
    package = find_spec("lightning")
    source = (Path(str(package and package.origin)).parent / "pytorch" / "trainer" / "trainer.py").read_text(
        encoding="utf-8"
    )
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    [trainer] = (node for node in classes if node.name == "Trainer")
    [init] = (node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    names = _Names(vars(typing), int=int, float=float, str=str, bool=bool, list=list, dict=dict)
    names |= {"None": None, "Iterable": Iterable, "List": list, "Dict": dict}
    return {
        argument.arg: eval(ast.unparse(argument.annotation), {"__builtins__": {}}, names)
        for argument in [*init.args.args, *init.args.kwonlyargs]
        if argument.annotation is not None
    }


def complaint(name: str, value: Any) -> str | None:
    """What is wrong with `value` as the argument `name`; None where nothing is."""
    arguments = trainer_arguments()
    if name in OF_A_RUN:
        return f"trainer.{name} cannot be set: {OF_A_RUN[name]}."
    if name not in arguments:
        return f"trainer.{name} is no argument of {TRAINER}; {did_you_mean(name, arguments)}"
    try:
        TypeAdapter(arguments[name], config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value
        allowed = FORMS.get(name) or _in_words(arguments[name])
        return f"trainer.{name}={shown} is not allowed: it must be {allowed}."
    return None


def _in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(map(str, get_args(kind)))
    if origin in (Union, UnionType):
        parts = list(dict.fromkeys(_in_words(part) for part in get_args(kind)))
        return ", ".join(parts[:-1]) + f" or {parts[-1]}" if len(parts) > 1 else parts[0]
    return WORDS.get(origin or kind, "what Lightning's Trainer takes")


def half_precision() -> str:
    """Lightning's word for the 16 bits that this machine is fast in, `bf16-mixed` or `16-mixed`; `32-true`
    where it is in none. A processor without instructions for bfloat16 would take several times as long."""
    import torch  # here: a command line is read without it

    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public words for it
    fast = any(getattr(torch.cpu, name, lambda: False)() for name in asked)
    return "bf16-mixed" if fast else "32-true"
