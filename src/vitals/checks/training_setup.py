"""What the checks look at of a training that is about to begin: copies of its parts, and samples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.errors import UserError, counted, listed
from vitals.measures.held_parameters import held_identities
from vitals.probes.joined_optimizers import as_one
from vitals.probes.put_back import buffers_kept
from vitals.probes.random_states import isolated_rng, seed_torch
from vitals.probes.stand_in import mute
from vitals.probes.step_losses import several
from vitals.probes.step_model import StepModel
from vitals.probes.training_step import TrainingStep
from vitals.probes.trial import Loss, copies_of, trial
from vitals.probes.untouched import GUARDED

DRAWS = 4
"""Times that further batches are looked at, with other random numbers: a block may be left out of half of
the steps."""

Needs = Literal["losses", "loss", "network", "cross-entropy", "class numbers"]
"""What a check needs of a training step: any number of losses; one loss; one network that is called once with
one tensor; a cross-entropy of its outputs, of a sequence's tokens or an image's pixels, too; and one class
number for each input."""


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """Copies of what a training consists of, with samples as they enter the network."""

    model: nn.Module
    """In the modes in which it trains; where the step is no network and its loss, the step as a whole."""
    loss: Loss
    optimizers: tuple[Optimizer, ...]
    inputs: Any
    """(N, ...), as they enter the model; N is better 1024, drawn at random from the training set. For a whole
    step the tensors of one batch that have a row for each sample."""
    targets: Any
    """Class numbers (N,); or what else the loss needs: a tensor (N, ...) or several, in a tuple."""
    label_batches: tuple[Tensor, ...] = ()
    """Labels of successive training batches, in their order."""
    validation_inputs: Tensor | None = None
    """(M, ...), as they enter the model in validation."""
    training_layers_in_validation: bool | None = None
    """Whether validation calls the model in training mode; None where that is not known."""
    batch_size: int = 128
    total_steps: int = 1000
    """Length of the training in optimizer steps."""
    total_batches: int = 1000
    """The same in batches."""
    later: bool = False
    """Whether a callback is going to unfreeze parameters and hand them to the optimizer."""
    loss_is_random: bool = False
    """Whether the loss draws random numbers, as with mixup; then it has no least value to compare with."""
    gives: Needs = "class numbers"
    """The most that checks can ask for."""
    of: str = ""
    """What learns by the loss, `'generator'` for instance, where it is one of several."""
    writes: bool = False
    """Whether the step itself changes parameters, as one that normalizes or clips them."""
    left_out: tuple[str, ...] = ()
    """Parameters of whole networks that no optimizer has, such as a teacher's; frozen in the copy."""
    step: TrainingStep | None = None
    further: tuple[Any, ...] = ()
    """The batches that follow the first one."""
    draws: tuple[int, int, int] = (0, 0, 0)
    """Places that the sampler draws first, how many of them are different, and how many samples there are;
    zeros where that is not known."""
    wears_out: bool = False
    """Whether the data set changes what it keeps when samples are taken out."""
    even: bool = False
    """Whether `targets` are drawn from all samples alike."""
    twice: Callable[[], tuple[Tensor, Tensor]] | None = None
    """Gives the inputs of some training samples, and of the same once more; None for a stream."""
    validation_twice: Callable[[], tuple[Tensor, Tensor]] | None = None
    """The same of validation, where there are class numbers; `UserError` where these differ, too."""
    plain: Callable[[], tuple[Any, Any]] | None = None
    """Gives inputs and targets of training samples without augmentation, as far as it is known how; None
    where a stream gives each sample only once."""

    @property
    def samples(self) -> int:
        """Samples in `inputs`; more than anybody asks for where a batch cannot be cut, nor counted."""
        if isinstance(self.inputs, Tensor):
            return len(self.inputs)
        return len(self.inputs[0]) if self.inputs else sys.maxsize

    def reached_later(self) -> set[str]:
        """Names of parameters on which the losses of further batches depend, as with several tasks or
        networks in turns, or with blocks that are left out at random."""
        if self.step is None:
            return set()
        whole = self.model if isinstance(self.model, StepModel) else StepModel(self.step)
        found: set[int] = set()
        for seed in range(DRAWS):
            with isolated_rng(seed=seed), torch.enable_grad(), buffers_kept(whole):
                for number, batch in enumerate(self.further, 1):
                    found |= {id(each) for each in whole.reached(batch, number)}
        return {name for name, parameter in self.model.named_parameters() if id(parameter) in found}

    def own_parameters(self) -> bool:
        """Take a copy of the parameters where they lie with those of the training, as before a step that
        changes them; whether they did."""
        if self.step is None or vars(self.step.owner).pop(GUARDED, None) is None:
            return False
        for parameter in self.step.owner.parameters():
            parameter.data = parameter.data.clone()
        return True

    def batch(self, limit: int, fewest: int = 1) -> tuple[Any, Any]:
        """Inputs and targets of one training batch, of at most `limit` samples, and of `fewest` where there
        are so many."""
        size = min(max(self.batch_size, fewest), limit)
        return cut(self.inputs, size), cut(self.targets, size)

    def each_loss(self) -> Iterator[TrainingSetup]:
        """The setup of each loss of the step, with the optimizers that minimise it; itself if it has one."""
        if self.gives != "losses":
            yield self
            return
        assert self.step is not None
        names = [name for name, _ in self.model.named_parameters()]
        for number, minimisers in enumerate(self.step.optimizers):
            shared = not self.writes
            model, optimizers = copies_of(StepModel(self.step, number), self.optimizers, shared)
            mute(model.owner)
            own = tuple(optimizers[place] for place in minimisers)
            mine, every = held_identities(*own), held_identities(*optimizers)
            parameters = dict(model.named_parameters())
            others = {name for name in names if id(parameters[name]) in every - mine}
            left_out = tuple(name for name in names if name in others.union(self.left_out))
            for name in left_out:
                parameters[name].requires_grad_(False)
            of = _modules_of([name for name in names if id(parameters[name]) in mine])
            yield replace(self, model=model, optimizers=own, left_out=left_out, gives="loss", of=of)

    def minds_others(self) -> bool:
        """Whether this one of several losses is another with other parameters of what learns by the others,
        which may be against it, as the two of a GAN are."""
        if not self.of:
            return False
        with trial(self.model, self.loss) as copies, torch.no_grad():
            values = []
            for factor in (1.0, 0.5):
                for name, parameter in copies.model.named_parameters():
                    if name in self.left_out:
                        parameter.mul_(factor)
                seed_torch(0)
                values.append(float(copies.loss_at(*self.batch(4))))
        return values[0] != values[1]

    def batches(self, limit: int, count: int) -> list[tuple[Any, Any]]:
        """Up to `count` training batches of other samples, each of at most `limit`."""
        size = min(self.batch_size, limit)
        firsts = range(0, self.samples - size + 1, size)[:count]
        pairs = [(cut(self.inputs, size, first), cut(self.targets, size, first)) for first in firsts]
        return pairs or [self.batch(limit)]

    def only_optimizer(self) -> Optimizer:
        """The optimizer, or several as one; raises `UserError` where there is none of these."""
        optimizer = self.optimizer_or_none()
        if not self.optimizers:
            raise UserError("your configure_optimizers gives no optimizer with a parameter.")
        if optimizer is None:
            raise UserError(
                f"The training has {len(self.optimizers)} optimizers; this check is made for one, or several "
                "that need no closure."
            )
        return optimizer

    def require_fixed_loss(self) -> None:
        """Raises `UserError` where the loss draws random numbers."""
        if self.loss_is_random:
            raise UserError("The loss draws random numbers, so that it has no least value (mixup?).")

    def optimizer_or_none(self) -> Optimizer | None:
        """The optimizer, or several that minimise the one loss as one."""
        return as_one(self.optimizers) if self.gives != "losses" else None


def _modules_of(parameters: Sequence[str]) -> str:
    """The innermost module that has all of the `parameters`, by their names, or those of the top that do."""
    levels = zip(*(name.split(".")[:-1] for name in parameters), strict=False)
    within = ".".join(level[0] for level in takewhile(lambda level: len({*level}) == 1, levels))
    modules = [within] if within else [name.partition(".")[0] for name in parameters]
    return listed(f"'{module}'" for module in modules)


def lack(setup: TrainingSetup, needs: Needs, fewest: int) -> str:
    """Why a check that needs this cannot be made, in a sentence for those who wrote the training step; empty
    where it can."""
    order = get_args(Needs)
    if order.index(needs) <= order.index(setup.gives):
        if setup.samples >= fewest:
            return ""
        return f"the training data give {counted(setup.samples, 'sample')}, and more are needed."
    if setup.gives == "losses":
        assert setup.step is not None
        return f"{several(len(setup.step.optimizers))}; one loss is needed."
    if setup.gives == "loss":
        assert setup.step is not None
        return f"{setup.step.called()}; one network that leads from each sample to its outputs is needed."
    return "your loss takes no class number for each sample, with one output a class."


def cut(values: Any, size: int, first: int = 0) -> Any:
    """`size` rows of a tensor, or of each in a tuple, from `first` on."""
    if isinstance(values, tuple):
        return tuple(cut(each, size, first) for each in values)
    return values[first : first + size]
