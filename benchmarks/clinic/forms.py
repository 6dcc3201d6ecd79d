"""Other forms that the same training may be written in: does a diagnosis depend on them?

Each takes a run of a case and gives the same run in another form, with the same fault, or raises `DoesNotFit`
where the case has a form of its own there. `clinic.py --form NAME` runs every case that it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, Classifier, DoesNotFit, Session
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler

Form = Callable[[Session], None]

STEP_HOOKS = (
    *("backward", "configure_gradient_clipping", "on_after_backward", "on_before_optimizer_step"),
    *("optimizer_step", "optimizer_zero_grad"),
)


def require(fits: bool) -> None:
    if not fits:
        raise DoesNotFit


def with_methods(session: Session, **methods: Any) -> None:
    """Give the session's module other methods, and leave it the name of its class."""
    kind = type(session.module)
    session.module.__class__ = type(kind.__name__, (kind,), methods)


def collated(loader: DataLoader, collate: Callable[[Any], Any]) -> DataLoader:
    """The same loader with another collate function."""
    require(loader.batch_size is not None or loader.batch_sampler is not None)
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, loader.batch_size, collate_fn=collate, drop_last=loader.drop_last)
    return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=collate)


def dict_batches(session: Session) -> None:
    """Batches are dicts, as those of Hugging Face."""

    def named(loader: DataLoader) -> DataLoader:
        collate: Any = loader.collate_fn
        return collated(
            loader, lambda rows: dict(zip(("pixel_values", "labels"), collate(rows), strict=True))
        )

    kind: Any = type(session.module)

    def training_step(self: Any, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return kind.training_step(self, (batch["pixel_values"], batch["labels"]), batch_idx)

    def validation_step(self: Any, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return kind.validation_step(self, (batch["pixel_values"], batch["labels"]), batch_idx)

    session.train_loader, session.val_loader = named(session.train_loader), named(session.val_loader)
    with_methods(session, training_step=training_step, validation_step=validation_step)


def label_rows(
    session: Session, mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
) -> None:
    """Labels are rows of zeros and a one, and samples of the training are mixed by `mix`."""
    require(type(session.module).measure is Classifier.measure)  # type: ignore[attr-defined]

    def rows_of(loader: DataLoader, mix: Any) -> DataLoader:
        collate: Any = loader.collate_fn

        def made(samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
            x, y = collate(samples)
            rows = F.one_hot(y, NUM_CLASSES).float()
            return mix(x, rows) if mix else (x, rows)

        return collated(loader, made)

    def measure(self: Any, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = self.loss(logits, y)
        accuracy = (logits.argmax(dim=1) == y.argmax(dim=1)).float().mean()
        values = {f"{stage}/loss": loss, f"{stage}/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    session.train_loader = rows_of(session.train_loader, mix)
    session.val_loader = rows_of(session.val_loader, None)
    with_methods(session, measure=measure)


def mixed_up(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """MixUp with alpha = 1 (Zhang et al. 2018), one share for the batch."""
    share, other = float(torch.rand(())), torch.randperm(len(x))
    return share * x + (1 - share) * x[other], share * y + (1 - share) * y[other]


def cut_and_pasted(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix with alpha = 1 (Yun et al. 2019), one box for the batch."""
    share, other = float(torch.rand(())), torch.randperm(len(x))
    height, width = (int(side * (1 - share) ** 0.5) for side in x.shape[-2:])
    top = int(torch.randint(x.shape[-2] - height + 1, ()))
    left = int(torch.randint(x.shape[-1] - width + 1, ()))
    box = (..., slice(top, top + height), slice(left, left + width))
    pasted = x.clone()
    pasted[box] = x[other][box]
    share = 1 - height * width / (x.shape[-2] * x.shape[-1])
    return pasted, share * y + (1 - share) * y[other]


class Stream(IterableDataset):
    def __init__(self, samples: Dataset, sampler: Sampler[int]) -> None:
        self.samples, self.sampler = samples, sampler

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[place] for place in self.sampler)


def streamed(session: Session) -> None:
    """Training samples come out of an iterable data set."""
    loader = session.train_loader
    require(not isinstance(loader.dataset, IterableDataset) and type(loader.batch_sampler) is BatchSampler)
    stream = Stream(loader.dataset, loader.sampler)  # type: ignore[arg-type]
    session.train_loader = DataLoader(
        stream, loader.batch_size, collate_fn=loader.collate_fn, drop_last=loader.drop_last
    )


def by_hand(session: Session) -> None:
    """Manual optimisation, whose step returns nothing."""
    kind: Any = type(session.module)
    require_automatic(session)

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        loss, optimizer = kind.training_step(self, batch, batch_idx), self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        if (schedule := self.lr_schedulers()) is not None:
            schedule.step()

    session.module.automatic_optimization = False
    with_methods(session, training_step=training_step)


def two_optimizers(session: Session) -> None:
    """The last layer has an optimizer of its own, both stepped by hand."""
    kind: Any = type(session.module)
    require_automatic(session)
    require(kind.configure_optimizers is Classifier.configure_optimizers)

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = kind.training_step(self, batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss

    def configure_optimizers(self: Any) -> list[Any]:
        parameters = list(self.parameters())
        made = [self.make_optimizer(each) for each in (parameters[:-2], parameters[-2:])]
        require(all(isinstance(each, torch.optim.Optimizer) for each in made))
        return made

    session.module.automatic_optimization = False
    with_methods(session, training_step=training_step, configure_optimizers=configure_optimizers)


def require_automatic(session: Session) -> None:
    module = session.module
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("clinic")]
    own = any(hook in vars(kind) for kind in kinds for hook in STEP_HOOKS)
    clips = {"gradient_clip_val", "accumulate_grad_batches"} & set(session.trainer_kwargs)
    require(module.automatic_optimization and not own and not clips)


class NamedOutputs(nn.Module):
    """A network whose outputs have names, as those of Hugging Face."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.backbone(pixel_values), hidden_states=None)


def named_outputs(session: Session) -> None:
    """The network is called by keyword and gives an object that has the logits."""
    module: Any = session.module
    require(type(module).forward is Classifier.forward)
    net = module.net
    del module.net
    module.model = NamedOutputs(net)

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits

    with_methods(session, forward=forward, net=property(lambda self: self.model.backbone))


def no_validation(session: Session) -> None:
    """There are no validation samples."""
    session.val_loader = None  # type: ignore[assignment]


def no_logging(session: Session) -> None:
    """The module logs nothing."""
    with_methods(session, log=lambda *_, **__: None, log_dict=lambda *_, **__: None)


FORMS: dict[str, Form] = {
    "dict-batches": dict_batches,
    "label-rows": label_rows,
    "mixup": lambda session: label_rows(session, mixed_up),
    "cutmix": lambda session: label_rows(session, cut_and_pasted),
    "stream": streamed,
    "by-hand": by_hand,
    "two-optimizers": two_optimizers,
    "named-outputs": named_outputs,
    "no-validation": no_validation,
    "no-logging": no_logging,
}
