"""Continue a sweep: its own command again, for what is missing or failed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from vitals.errors import UserError
from vitals.files import require_inside
from vitals.runs.allowed_targets import OwnCode, require_allowed
from vitals.runs.config.overrides import places_in
from vitals.runs.quoting import hydra_value
from vitals.sweeps.jobs.folder import SweepFolder

MAY_CHANGE = ("launcher", "search.trials=", "trust=")
OF_HYDRA = ("hydra.sweep.", "hydra.job.name=", "hydra.job.config.", "hydra.mode=", "hydra.verbose=")
"""Beginnings of Hydra's words that name nothing which is run."""


def words_of_sweep(arguments: Sequence[str], configs: Path) -> list[str]:
    """The words that start a sweep again, from those of the command line: `resume_sweep=<folder>`, and what
    may differ from last time. `UserError` if there is no sweep, or a word would change its jobs, or one that
    the folder has would run what is not the user's own, with `configs` of the project."""
    given = [word for word in arguments if word.startswith("resume_sweep=")]
    path: Any = given[-1].partition("=")[2]
    with suppress(HydraException):
        if path.startswith(("'", '"')):  # as it is printed for copying
            path = OverridesParser.create().parse_override(given[-1]).value()
    folder = SweepFolder.existing(path, "resume_sweep")
    require_inside(folder.path, folder.path.iterdir())
    words = folder.read_record().get("words")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f"resume_sweep={path}: {folder.record} is missing or damaged, which says the command."
        )
    further = [word for word in arguments if word not in given]
    for word in further:
        if not word.startswith(MAY_CHANGE):
            raise UserError(
                f"{word} would change the jobs of the sweep that is continued: leave it out, or start a new "
                f"sweep (with resume_sweep, launcher=, launcher.*, trust= and search.trials may be given)."
            )
    words = [word for word in words if not word.startswith("trust=")]
    if any(word.startswith("launcher.setup=") for word in further):
        words = [word for word in words if not word.startswith("launcher.setup=")]
    require_words_allowed(words, folder.record, configs, trusted_in(further))
    return [*words, *further, f"hydra.sweep.dir={hydra_value(os.path.abspath(folder.path))}"]


def trusted_in(words: Sequence[str]) -> list[str]:
    """What the last `trust=` among `words` names."""
    parse = OverridesParser.create().parse_override
    values = [parse(word).value() for word in words if word.startswith("trust=")]
    last: Any = values[-1] if values else []
    return list(map(str, last)) if isinstance(last, list) else [str(last)]


def require_words_allowed(words: Sequence[str], file: Path, configs: Path, trust: Sequence[str]) -> None:
    """Make sure that words which `file` has, not the command line, run nothing but the user's own code,
    `configs` and what is in `trust`; `UserError` naming the first that may not be taken from a folder."""
    own = OwnCode.beside(file.parent, configs.parent)
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        places = []
        if word.startswith("--config-path="):
            places = [word.partition("=")[2]]
        elif key == "hydra.searchpath":
            places = [place for place in places_in(word) if not place.startswith("pkg://vitals.")]
            places = [place.removeprefix("file://") for place in places]
        elif word.startswith("--config-name="):  # a file in that folder, or below it
            name = PurePath(word.partition("=")[2])
            places = [str(configs / name)] if name.is_absolute() or ".." in name.parts else []
        elif word.startswith(OF_HYDRA):
            continue
        elif word.startswith("-") or key.startswith("hydra") or key == "launcher.setup" or "${" in word:
            places = [key]  # settings of the process, lines of a shell, the environment
        for place in places:
            if not (place in trust or own.holds_folder(Path(place))):
                raise UserError(
                    f"{file}: the word {word} is not taken from a folder, for it may run code that is not "
                    f"yours; if you know what it does, add trust={place}"
                )
        if not places and not word.startswith("-"):
            for value in _values(word):
                for part in reversed(key.split(".")):
                    value = {part: value}
                require_allowed(value, file, trust)


def _values(word: str) -> Iterator[Any]:
    """Each value that a word stands for."""
    parser = OverridesParser.create()
    try:
        override = parser.parse_override(word)
        if not override.is_sweep_override() or override.is_interval_sweep():
            yield override.value()
        else:
            for text in override.sweep_string_iterator():
                yield parser.parse_override(f"key={text}").value()
    except HydraException:  # it will be refused where the command line is read
        yield None
