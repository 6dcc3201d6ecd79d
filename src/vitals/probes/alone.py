"""Looks that one of several processes takes while the others wait for it elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vitals.errors import UserError

TOGETHER = ("gather", "reduce", "scatter", "broadcast", "barrier", "alltoall", "all_to_all")
"""Words in the names of what all processes of a group do together."""
ONE_TO_ONE = ("send", "recv", "recv_anysource")
OF_ONE = {"size": 1, "rank": 0}


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process is the only one of the world, and of each of its groups: what it gathers
    is its own, and it waits for nobody.

    A training step that gathers the outputs of all processes, as those of CLIP, SimCLR and DINO do, would
    wait for ever on the copy that one of them runs, or take what another has sent for something else.
    `UserError` where it waits for a single other process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        yield
        return
    # A group of one that torch itself makes may lock up where a mode looks at each operation.
    kind: Any = dist.ProcessGroup
    before = {name: method for name, method in vars(kind).items() if _talks(name)}
    try:
        for name in before:
            setattr(kind, name, _by_oneself(name))
        yield
    finally:
        for name, method in before.items():
            setattr(kind, name, method)


def _talks(name: str) -> bool:
    return name in ONE_TO_ONE or name in OF_ONE or any(word in name for word in TOGETHER)


def _by_oneself(name: str) -> Callable[..., Any]:
    def method(group: Any, *arguments: Any, **options: Any) -> Any:
        if name in OF_ONE:
            return OF_ONE[name]
        if name in ONE_TO_ONE:
            raise UserError(f"your training_step waits for one other process ({name}).")
        given = [_tensors(each) for each in (*arguments, *options.values())]
        if len(given) > 1 and given[1]:  # results, and what they are made of; else all is done in place
            _hand_over(given[0], given[1])
        return _Done(given[0] if given else [])

    return method


def _tensors(given: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]


def _hand_over(results: list[Tensor], sources: list[Tensor]) -> None:
    # Unseen, as by torch itself: who watches for no_grad would take what is gathered for stopped.
    with torch._C.DisableTorchFunction(), torch.no_grad():
        for place, result in enumerate(results):
            source = sources[place % len(sources)].reshape(-1)
            times = -(-result.numel() // max(source.numel(), 1))  # where there is room for other processes
            result.copy_(source.repeat(times)[: result.numel()].view(result.shape))


class _Done:
    """A collective call that nobody need wait for."""

    def __init__(self, results: list[Tensor]) -> None:
        self.results = results

    def wait(self, *timeout: Any) -> bool:
        return True

    is_completed = is_success = wait

    def result(self) -> list[Tensor]:
        return self.results

    def get_future(self) -> torch.futures.Future[list[Tensor]]:
        future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
        future.set_result(self.results)
        return future
