"""Command lines that nobody would type: each must be answered by a sentence, or prepared without a word."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.unbreakable.moments import TRAIN
from vitals.command_line import Command, answers_mistakes, check_command_line
from vitals.commands import train
from vitals.runs.config.overrides import Overrides
from vitals.runs.config.validation import check_run
from vitals.runs.instantiate import plain
from vitals.runs.project import ProjectFolder

FIXED = ["data=digits", "data.limit=40", "trainer=cpu", "hydra.run.dir=run"]
"""So that nothing is downloaded, and all stays where it is."""
PLACES = ("root", "dir", "resume", "resume_sweep", "_target_", "rules", "which", "source")
"""Last parts of keys whose values reach files or code; they are drawn from `STRANGE` alone."""
STRANGE = (
    *(
        "",
        " ",
        "null",
        "None",
        "true",
        "nan",
        "inf",
        "-inf",
        "???",
        "0",
        "-1",
        "1e400",
        "1_000",
        "0x10",
        "007",
    ),
    *(
        "[",
        "]",
        "[]",
        "{}",
        "{a:1}",
        "[1,2",
        "[[1]]",
        "1,2",
        "a,b",
        "a=b",
        "=",
        "'",
        '"',
        "\\",
        "'a\"",
        "a b",
    ),
    *("${x}", "${oc.env:NOWHERE}", "${oc.env:HOME}", "${", "$x", "${seed}", "${now:%H}", "{{x}}", "%", "%s"),
    *(
        "[/b]",
        "[bold]x[/]",
        "a[/b]",
        "é",
        "日本",
        "\udce9",
        "\u200b",
        "#",
        "!",
        "!!python/name:os",
        "&a",
        "*a",
    ),
    *(
        "range(1,3)",
        "choice(1,2)",
        "interval(0,1)",
        "glob(*)",
        "shuffle(1,2)",
        "tag(log,interval(1,2))",
        "sort(",
    ),
    *("--help", "-", "~", "+", "@", ":", "/", ".", "..", "nowhere", "a/b", "x" * 300, "9" * 40),
)


FLAGS = ("-m", "--cfg", "--cfg=job", "--resolve", "--help", "--info", "-p", "--config-name=x", "-cd=x", "-x")


@dataclass(frozen=True)
class Answer:
    """What became of one command line."""

    words: list[str]
    code: int
    said: str
    wrong: str
    """Why that will not do; empty where it will."""


def command_lines(project: ProjectFolder) -> st.SearchStrategy[list[str]]:
    """Words of every form that Hydra knows, and of none, about the keys and groups that there are."""
    known = Overrides(project.configs, "train", FIXED)
    [config] = known.composed()
    values = dict(_leaves(plain(config)))
    groups = {name: choices for name, choices in known.groups.items() if not name.startswith("hydra")}
    strange, key, group = (
        st.sampled_from(STRANGE),
        st.sampled_from(sorted(values)),
        st.sampled_from(sorted(groups)),
    )
    number = st.one_of(st.integers(-3, 3), st.sampled_from([10**6, 10**12, 10**30, -(10**12)]), st.floats())
    anything = st.one_of(
        strange, number.map(str), st.text(st.characters(exclude_characters="\0"), max_size=8)
    )
    typed = st.one_of(key, key.map(lambda name: name[:-1]), strange)

    def near(name: str) -> st.SearchStrategy[str]:
        return st.sampled_from([f"{name}={text}" for text in _near(values[name])])

    def far(name: str) -> st.SearchStrategy[str]:
        return (strange if name.rpartition(".")[2] in PLACES else anything).map(lambda text: f"{name}={text}")

    def choice(name: str) -> st.SearchStrategy[str]:
        of_group = [*groups[name], "nowhere", "null", "[a,b]", ""]
        return st.sampled_from([f"{name}={text}" for text in of_group if name != "data"] or ["data=digits"])

    word = st.one_of(
        key.flatmap(near),
        key.flatmap(near),
        group.flatmap(choice),
        key.flatmap(far),
        st.tuples(st.sampled_from(["+", "++", "~"]), typed, st.just("="), strange).map("".join),
        st.tuples(st.sampled_from(["~", ""]), st.one_of(typed, group)).map("".join),
        st.tuples(group, st.just("@"), strange, st.just("=none")).map("".join),
        st.sampled_from(FLAGS),
    )
    return st.lists(word, min_size=1, max_size=4)


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")


def _near(value: Any) -> list[str]:
    """Values that somebody might mean, who sees `value`."""
    if isinstance(value, bool):
        return ["true", "false", "null"]
    if isinstance(value, int | float):
        return [str(each) for each in (value, 0, 1, 2 * value, value / 2, -value)] + ["null"]
    if isinstance(value, list):
        return ["[]", "null", str(value).replace("'", ""), *map(str, value)]
    return (
        ["null", "1", "true"]
        if value is None or isinstance(value, dict)
        else ["null", str(value), f"'{value}'"]
    )


def answered(project: ProjectFolder, words: list[str], whole: bool) -> Answer:
    """Give the train command these words in an empty folder, up to where the run would begin.

    Args:
        project: whose command it is.
        words: after those that are `FIXED`.
        whole: builds everything on trial too, and hands over to Hydra; else only the checks before torch.
    """
    from project.schema import Experiment
    from vitals.runs import run

    sweep = any(word == "-m" or word.startswith("--multirun"[: max(3, len(word))]) for word in words)
    said, code, wrong = io.StringIO(), 0, ""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", [TRAIN, *FIXED, *words]),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.object(run, "run", return_value={}),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            if whole and not sweep:
                train.main(TRAIN)
            else:
                with answers_mistakes():
                    check_command_line(Command(project.configs, "train", partial(check_run, Experiment)))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if code not in (0, 2):
                wrong = f"exit code {end.code}"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error}"
        written = os.listdir(folder)
    if not wrong and "Traceback (most recent call last)" in said.getvalue():
        wrong = "a traceback was printed"
    if not wrong and code == 2 and not said.getvalue().strip():
        wrong = "nothing was said"
    if not wrong and code == 2 and written:
        wrong = f"{', '.join(written)} was written by a command that is refused"
    return Answer(words, code, said.getvalue(), wrong)


def fuzzed(
    examples: int, number: int = 0, whole: bool = True, say: Callable[[Answer], None] = lambda _: None
) -> int:
    """Try so many command lines; returns how many there were, and tells `say` of each.

    Args:
        examples: at most; equal ones are tried once.
        number: from which the examples are drawn.
        whole: as of `answered`.
        say: may raise, and then gets the shortest words that it raises for.
    """
    project, done = ProjectFolder.around(TRAIN), 0

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines(project))
    def attempt(words: list[str]) -> None:
        nonlocal done
        done += 1
        say(answered(project, words, whole))

    attempt()
    return done
