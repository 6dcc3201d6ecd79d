"""Runs that are killed, continued with the same command, and must end as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.unbreakable.commands import Commands
from benchmarks.unbreakable.differences import differences, in_short
from benchmarks.unbreakable.moments import Fate
from vitals.files import read_json

TINY = [
    "data=digits",
    "data.limit=100",
    "data.batch_size=8",
    "network.widths=[4,4]",
    "schedule.warmup_epochs=0.5",
    "average.start=0.5",
    "checkpoint.every_n_steps=5",
    "trainer=cpu",
    "trainer.max_epochs=4",
    "trainer.log_every_n_steps=1",
    "checks.which=[inputs,loss_at_chance,tiny_subset]",
    "checks.tiny_subset_steps=3",
    "checks.on_fail=warn",
    "checks.budget=inf",  # of seconds: what a check finds must not depend on how busy the machine is
    "callbacks.histograms.every_n_steps=4",
    "callbacks.update_ratio.every_n_steps=2",
    "~callbacks.progress",
    "diagnosis.report=false",
    "hydra.run.dir=run",
    "seed=1",
]
OF_JOBS = [word for word in TINY if not word.startswith(("seed=", "hydra."))]
"""Without what tells a job of a sweep from the others."""
VARIANTS: dict[str, list[str]] = {
    "nesterov, cosine, swa, every monitor": [],
    "adam, dropout, ema at every step": [
        "optimizer=adam",
        "network.dropout=0.3",
        "average=ema",
        "checkpoint.every_n_steps=1",
    ],
    "lbfgs": ["optimizer=lbfgs", "optimizer.max_iter=3", "trainer.max_epochs=12"],
    "plateau, a step for two batches": ["schedule=plateau", "trainer.accumulate_grad_batches=2"],
    "validated inside epochs, augmented": [
        "+trainer.val_check_interval=3",
        "data.flip=true",
        "data.crop_padding=1",
        "callbacks.checkpoints.keep_every=2",
    ],
    "adamw, one cycle, last_k, report": [
        "optimizer=adamw",
        "schedule=one_cycle",
        "average=last_k",
        "diagnosis.report=true",
    ],
    "muon, other sizes, alternating flips": [
        "network=fast",
        "optimizer=muon",
        "schedule=linear",
        "data.sizes=[24,32]",
        "data.flip=alternating",
    ],
    "two processes": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"],
}
KILLED = (-signal.SIGKILL, -signal.SIGALRM, 128 + signal.SIGTERM)


@dataclass
class Kill:
    """One run that was killed, once or more often, and what came of it."""

    variant: str
    fates: list[Fate]
    """Of the run, of the one that continued it, and so on."""
    codes: list[int] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    """What is not as in the undisturbed run; empty where nothing is."""

    @property
    def happened(self) -> bool:
        """Whether it was killed at all: a moment in seconds may come too late."""
        return any(code in KILLED for code in self.codes)

    def __str__(self) -> str:
        return f"{self.variant}: killed {', then '.join(map(str, self.fates))}"


class Kills:
    """Kills of one variant, beside its undisturbed run.

    Args:
        commands: starts the runs.
        folder: to work in.
        variant: their name.
        words: of the command.
    """

    def __init__(self, commands: Commands, folder: Path, variant: str, words: Sequence[str]) -> None:
        self.commands, self.folder, self.variant = commands, folder, variant
        self.words = [*TINY, *words]
        self.undisturbed = self._undisturbed("undisturbed")
        lines = (folder / "undisturbed" / "moments").read_text(encoding="utf-8").splitlines()
        self.seconds, self.moments = float(lines[0].partition(" ")[2]), lines[1:]

    def _undisturbed(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir(parents=True)
        ended = self.commands.train(self.words, place, record=place / "moments")
        if ended.code:
            raise SystemExit(
                f"{self.variant}: it ends with code {ended.code} when nobody kills it:\n{ended.said}"
            )
        return place / "run"

    def control(self) -> list[str]:
        """What differs in a second run that nobody disturbs either; if anything, the comparison is no use."""
        return differences(self._undisturbed("again"), self.undisturbed)

    def by_name(self) -> dict[str, list[str]]:
        """The moments by their names, without the number."""
        found: dict[str, list[str]] = {}
        for moment in self.moments:
            found.setdefault(moment.rpartition(" ")[0], []).append(moment)
        return found

    def fates(self, chance: random.Random) -> Callable[[int], list[Fate]]:
        """A function that draws what befalls the n-th run: a kill, or SIGTERM, at a named place, each in its
        turn; a kill in a step of the optimizer, or at any time. Every fourth is killed once more as it goes
        on."""
        by_name = self.by_name()
        names = list(by_name)
        chance.shuffle(names)

        def draw(number: int) -> list[Fate]:
            kind = ("place", "signal", "step", "time")[number % 4]
            if kind in ("place", "signal"):
                name, what = names[number % len(names)], "kill" if kind == "place" else "end"
                later = chance.choice([0.0, chance.uniform(0, 0.003)])
                first = Fate(chance.choice(by_name[name]), later * (kind == "place"), what)
            elif kind == "step":
                first = Fate(chance.choice(by_name["after step"]), chance.uniform(0, 0.05))
            else:
                first = Fate(f"seconds {chance.uniform(0.1, self.seconds):.3f}")
            again = Fate(f"{chance.choice(names)} {chance.randint(1, 3)}")
            return [first, again] if number % 4 == 3 else [first]

        return draw

    def kill(self, number: int, fates: Sequence[Fate]) -> Kill:
        """Kill a run as the first of `fates` says, the run that continues it as the second, and so on."""
        place = self.folder / f"kill-{number}"
        place.mkdir()
        kill, words = Kill(self.variant, list(fates)), self.words
        for fate in (*fates, Fate()):
            ended = self.commands.train(words, place, fate)
            kill.codes.append(ended.code)
            if ended.code == 0:
                break
            if ended.code not in KILLED:
                kill.unequal.append(f"{words[-1]} ended with code {ended.code}: {ended.last_line}")
                break
            words = how_to_go_on(place / "run", self.words, same=number % 3 == 0)
        kill.unequal += differences(place / "run", self.undisturbed)
        if not kill.unequal:
            shutil.rmtree(place)
        return kill


def how_to_go_on(run: Path, words: Sequence[str], same: bool) -> list[str]:
    """The words that go on with the run in this folder.

    Args:
        run: its folder.
        words: that it was begun with.
        same: whether to go on by the same words and `resume=auto`, or by `resume=<folder>`.
    """
    finished = read_json(run / "status.json").get("status") == "finished"
    if same or finished:  # which says so, and changes nothing
        return [*words, "resume=auto"]
    return ["resume=run"] if (run / "config.yaml").exists() else [*words]


def campaign(
    kills: int,
    seed: int,
    folder: Path,
    variants: Sequence[str],
    further: Sequence[str],
    say: Callable[[str], None],
) -> list[Kill]:
    """Kill so many runs, as many of each variant, and say what became of each; `further` are words of all."""
    chance, commands, done = random.Random(seed), Commands(), list[Kill]()
    for place, variant in enumerate(variants):
        share = kills // len(variants) + (place < kills % len(variants))
        of_variant = Kills(commands, folder / str(place), variant, [*VARIANTS[variant], *further])
        for words in of_variant.control():
            say(f"{variant}: not the same twice, without a kill: {words}")
        draw = of_variant.fates(chance)
        for number in range(share):
            kill = of_variant.kill(number, draw(number))
            done.append(kill)
            say(f"{kill}: {in_short(kill.unequal) or 'equal'}")
    return done
