"""`vitals <command> …`, or `python -m vitals <command> …`: what the template's scripts do, in any project.

Each command is a module of `vitals.commands`, run as `python -m` would run it: so a further process of the
same training, which Lightning starts from `__main__`, is the same command.
"""

import runpy
import sys
from importlib.metadata import version
from importlib.util import find_spec

from vitals.errors import did_you_mean

COMMANDS = {
    "train": "train and test as configured",
    "check": "check data, network, loss and optimizer before learning",
    "evaluate": "evaluate the weights of a run",
    "ensemble": "average what several networks predict",
    "report": "remake the page about a run, or compare runs",
    "sweep": "put the results of a sweep together",
}
USAGE = "\n".join(
    [
        "vitals <command> <key>=<value> …, in the folder of a project (configs/ and code) or below it",
        *(f"  {command:<10}{meaning}" for command, meaning in COMMANDS.items()),
        "vitals <command> --help says more.",
    ]
)


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h"):
        print(USAGE)
        return
    if command in ("--version", "-V"):
        print(f"vitals {version('vitals')}")
        return
    if command not in COMMANDS:
        print(f"\nvitals has no command '{command}': {did_you_mean(command, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    if find_spec("hydra") is None:
        print("\nvitals needs the packages of its extra 'project', such as hydra-core.", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(f"vitals.commands.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
