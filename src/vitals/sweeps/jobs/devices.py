"""Which devices a machine has, and which job may use which of them. Importable without torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from vitals.errors import UserError, counted
from vitals.runs.provenance import answer_of, usable_cpus


def visible_gpus() -> list[str]:
    """The GPUs this process may use: those of CUDA_VISIBLE_DEVICES, or all that `nvidia-smi` lists.

    Torch is not asked, for it takes seconds to import.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    listed = answer_of(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]) or b""
    return listed.decode().split()


@dataclass
class Devices:
    """The devices of a machine, and how many jobs are on each, `jobs_per_device` at the most.

    The `names` are numbers or identifiers of GPUs as CUDA_VISIBLE_DEVICES takes them, or any where these are
    not GPUs but slots of the CPU, whose `cores` are shared out among the jobs.
    """

    names: list[str]
    jobs_per_device: int = 1
    are_gpus: bool = False
    cores: int = field(default_factory=usable_cpus)
    jobs: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = dict.fromkeys(self.names, 0)

    @classmethod
    def found(cls, wanted: str | Sequence[int], jobs_per_device: int = 1) -> Self:
        """The devices that `launcher.devices` asks for: `auto` is every GPU, or where there is none a slot
        for each CPU core; `cpu` these; else a list of numbers of GPUs. `UserError` if one of them is known
        not to be there."""
        if not isinstance(wanted, str):
            known = visible_gpus()
            missing = [number for number in wanted if str(number) not in known]
            if missing and known and all(map(str.isdecimal, known)):
                raise UserError(
                    f"launcher.devices={list(wanted)}: there is no GPU {missing[0]} here, but "
                    f"{', '.join(known)}."
                )
            return cls([str(number) for number in wanted], jobs_per_device, are_gpus=True)
        if wanted == "auto" and (gpus := visible_gpus()):
            return cls(gpus, jobs_per_device, are_gpus=True)
        cores = usable_cpus()
        return cls([f"cpu{core}" for core in range(cores)], jobs_per_device, cores=cores)

    def __str__(self) -> str:
        return counted(len(self.names), "GPU" if self.are_gpus else "CPU core")

    def at_once(self, count: int) -> int:
        """How many jobs of `count` devices can run side by side."""
        return len(self.names) * self.jobs_per_device // count

    def require(self, count: int) -> None:
        """Make sure that a job can ever have `count` devices; `UserError` if there are fewer."""
        if count > len(self.names):
            what = "GPU" if self.are_gpus else "CPU slot"
            raise UserError(
                f"a job takes {count} devices, and here {len(self.names)} can be used ({what}s): set "
                f"trainer.devices or launcher.devices_per_job to {len(self.names)} or less."
            )

    def take(self, count: int) -> list[str] | None:
        """`count` different devices with the fewest jobs on them, now one job more; None if none is free."""
        free = [name for name in self.names if self.jobs[name] < self.jobs_per_device]
        if len(free) < count:
            return None
        taken = sorted(free, key=lambda name: self.jobs[name])[:count]
        for name in taken:
            self.jobs[name] += 1
        return taken

    def give_back(self, taken: Sequence[str]) -> None:
        """The job that had these devices has ended."""
        for name in taken:
            self.jobs[name] -= 1

    @property
    def threads(self) -> int:
        """That each process of a job has: its share of the cores, or as many as OMP_NUM_THREADS says."""
        given = os.environ.get("OMP_NUM_THREADS", "")
        share = self.cores // (len(self.names) * self.jobs_per_device)
        return max(1, int(given) if given.isdecimal() else share)

    def environment(self, taken: Sequence[str]) -> dict[str, str]:
        """What a job with these devices finds in its environment, from its first moment on.

        It sees its GPUs and no others, and has its share of the cores unless OMP_NUM_THREADS is set already.
        """
        threads = self.cores * len(taken) // (len(self.names) * self.jobs_per_device)
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(taken) if self.are_gpus else "",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, threads)),
        }
