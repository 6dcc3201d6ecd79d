"""What is written for others to type: values as Hydra reads them, paths as they can be reached from here."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from vitals.runs.run_folder import shown


def hydra_value(text: object) -> str:
    """`text` as the value of an override: in quotes where Hydra would read more into it."""
    value = str(text)
    if re.fullmatch(r"[\w/.:+-]+", value):
        return value
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", value) + "'"


def script_from_here(record: dict[str, str], name: str = "") -> str:
    """The path of the script that a sweep was started with, or of `name` beside it, from the working folder.

    Args:
        record: of the sweep, as `sweep.json` has it.
        name: of another script.
    """
    script = Path(record.get("script", "scripts/train.py"))
    script = script.with_name(name) if name else script
    started_in = record.get("folder", os.getcwd())
    return os.path.relpath(os.path.join(started_in, script))


def command_line(*words: str) -> str:
    """`python` and the words, as a shell takes them."""
    return shlex.join(["python", *words])


def command_here(script: str, **values: object) -> str:
    """The command that runs `script`, one of those beside the script that runs now, from the working folder.

    Args:
        script: its name, such as `evaluate.py`.
        values: of its keys.
    """
    beside = Path(sys.argv[0]).absolute().with_name(script)
    path = os.path.relpath(beside) if beside.exists() else f"scripts/{script}"
    return command_line(path, *(f"{key}={hydra_value(value)}" for key, value in values.items()))


def curves_command(folder: Path) -> str:
    """The command that shows the curves in `folder`."""
    return shlex.join(["tensorboard", "--logdir", str(shown(folder))])
