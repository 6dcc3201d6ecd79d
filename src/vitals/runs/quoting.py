"""What is written for others to type: values as Hydra reads them, paths as they can be reached from here."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from vitals.runs.kept_code import original
from vitals.runs.run_folder import here, shown

COMMANDS = Path(__file__).parents[1] / "commands"
SCRIPTS = {"sweep": "sweep_report.py"}
"""Of the template's scripts those that have another name than their command."""


def hydra_value(text: object) -> str:
    """`text` as the value of an override: in quotes where Hydra would read more into it."""
    value = str(text)
    if re.fullmatch(r"[\w/.:+-]+", value, re.ASCII):
        return value
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", value) + "'"


def program(script: str = "", command: str = "", started_in: str = "") -> list[str]:
    """The words before the overrides of a command, as a shell in the working folder takes them: of `script`,
    how something was started from the folder `started_in`, or of what runs now; or of another `command` of
    the instrument, to be started in the same way."""
    script = script or this_program()
    path = Path(here(), started_in, script)
    if command:
        path = path.with_name(SCRIPTS.get(command, f"{command}.py"))
    own = command_of(script)
    if own or (command and not path.exists()):
        return [*_console("vitals", "vitals"), command or own]
    return [_python(), os.path.relpath(path, here())]


def this_program() -> str:
    """How what runs now was started: the path of a script, or `vitals <command>`."""
    script = Path(sys.argv[0]).absolute()
    of_ours = script.parent == COMMANDS or not script.is_file()
    return f"vitals {script.stem}" if of_ours else os.path.relpath(original(script), here())


def command_of(script: str) -> str:
    """`train` of `vitals train`; empty for the path of a script."""
    name, _, command = script.partition(" ")
    return command if name == "vitals" and command.isalpha() else ""


def command_here(command: str, **values: object) -> str:
    """`command`, started as what runs now was, with values of its keys; to be typed in the working folder."""
    words = (f"{key}={hydra_value(value)}" for key, value in values.items())
    return shlex.join([*program(command=command), *words])


def curves_command(folder: Path) -> str:
    """The command that shows the curves in `folder`."""
    return shlex.join([*_console("tensorboard", "tensorboard.main"), "--logdir", str(shown(folder))])


def _python() -> str:
    """How a shell starts the Python that runs now."""
    return "python" if _is_ours("python") else sys.executable


def _console(name: str, module: str) -> list[str]:
    """How a shell starts the console command `name`, which is `module`, with the Python that runs now."""
    return [name] if _is_ours(name) else [_python(), "-m", module]


def _is_ours(name: str) -> bool:
    """Whether a shell that is asked for `name` takes the one that lies beside the Python that runs now."""
    found = shutil.which(name)
    return found is not None and Path(found).absolute().parent == Path(sys.executable).parent
