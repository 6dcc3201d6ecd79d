"""Training steps and batches of every make: which checks are made, that nothing healthy is blamed, and that
the training stays the same to the bit."""

from __future__ import annotations

import copy
import dataclasses
import logging
import random
import sys
import threading
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, alarms, digits, fit, mlp, quick
from monitoring import GAN, monitors, same
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from vitals.checks.registry import GROUPS
from vitals.checks.sanity_checks import SanityChecks
from vitals.checks.setup_of_trainer import training_setup
from vitals.diagnosis.callback import Diagnosis
from vitals.monitors.histograms import Histograms
from vitals.probes.twin import Twin

Pair = namedtuple("Pair", "image label")


@dataclasses.dataclass
class Sample:
    image: Tensor
    label: Tensor


class Made(Dataset):
    """Digits, each made into a sample of one's own."""

    def __init__(self, make: Callable[[Tensor, Tensor, int], Any]) -> None:
        self.images, self.labels = digits(128)
        self.make = make

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.images[index], self.labels[index], index)


class Step(Foreign):
    """A module whose step is `loss(module, batch)`."""

    def __init__(self, loss: Callable[[Any, Any], Any], **nets: nn.Module) -> None:
        super().__init__(nets.pop("net", mlp()))
        self.loss = loss
        for name, net in nets.items():
            setattr(self, name, net)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


def loaded(make: Callable[[Tensor, Tensor, int], Any], **options: Any) -> DataLoader:
    return DataLoader(Made(make), 32, **{"shuffle": True, **options})


def cross_entropy(image: str | int, label: str | int) -> Callable[[], Step]:
    def loss(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module.net(batch[image]), batch[label])

    return lambda: Step(loss)


def of_attributes(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module.net(batch.image), batch.label)


def as_dataclass(samples: list[Any]) -> Sample:
    return Sample(torch.stack([s.image for s in samples]), torch.stack([s.label for s in samples]))


def of_a_list(module: Any, batch: list[Any]) -> Tensor:
    labels = torch.tensor([sample["label"] for sample in batch])
    return F.cross_entropy(module.net(torch.stack([sample["image"] for sample in batch])), labels)


def normalized(module: Any, batch: Any) -> Tensor:
    with torch.no_grad():
        weight = module.net[-1].weight
        weight.copy_(F.normalize(weight, dim=1))
    return F.cross_entropy(module.net(batch[0]), batch[1])


class Banked(Foreign):
    """Compares its outputs with those of the batch before, of as many samples."""

    def __init__(self) -> None:
        super().__init__(mlp(), 0.01)
        self.register_buffer("bank", torch.zeros(32, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0].view(32, 1, 8, 8))
        loss = F.cross_entropy(outputs, batch[1]) + 0.01 * F.mse_loss(outputs, self.bank.clone())
        self.bank[:] = outputs.detach()
        return loss


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(*digits(128), strict=True))


class Generated(IterableDataset):
    """A stream that only the training can read."""

    def __init__(self) -> None:
        self.samples = (sample for sample in zip(*digits(128), strict=True))

    def __iter__(self) -> Iterator[Any]:
        return self.samples


def vae(module: Any, batch: Any) -> Tensor:
    x = batch[0].flatten(1)
    mean, log_variance = module.net(x).chunk(2, 1)
    latent = torch.distributions.Normal(mean, (log_variance / 2).exp()).rsample()
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).mean()
    return F.mse_loss(module.decoder(latent), x) + 0.01 * divergence


def slopes(module: Any, batch: Any) -> Tensor:
    x = batch[0].clone().requires_grad_()
    outputs = module.net(x)
    (slope,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
    return F.mse_loss(outputs[:, :1], batch[1]) + 0.1 * slope.square().mean()


def views(module: Any, batch: Any) -> Tensor:
    outputs = F.normalize(
        module.net(torch.cat([batch[0], batch[0] + 0.1 * torch.randn_like(batch[0])])), dim=1
    )
    similar = (outputs @ outputs.T / 0.5).masked_fill(torch.eye(len(outputs), dtype=torch.bool), -1e9)
    return F.cross_entropy(similar, torch.arange(len(outputs)).roll(len(batch[0])))


class Keywords(nn.Module):
    """Gives loss and outputs for keyword arguments, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(17, 8), nn.Linear(8, 10)

    def forward(self, ids: Tensor, mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.head((self.embed(ids) * mask[..., None]).mean(1))
        return {"loss": F.cross_entropy(outputs, labels), "logits": outputs}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(17, 8), nn.Linear(8, 17)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def next_token(module: Any, batch: Any) -> Tensor:
    [ids] = batch
    return F.cross_entropy(module.net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def ids(image: Tensor) -> Tensor:
    return (4 * image.flatten()[:12]).long().clamp(0, 16)


@dataclasses.dataclass(slots=True)
class Answer:
    outputs: Tensor
    state: Any = None


class Wrapped(nn.Module):
    """Gives its outputs in an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Answer:
        return Answer(self.net(x))


class Beside(nn.Module):
    """Gets an image, and numbers or categories beside it."""

    def __init__(self, categories: bool) -> None:
        super().__init__()
        self.image, self.categories = mlp(), nn.Embedding(17, 4) if categories else None
        self.head = nn.Linear(10 + 8 * (4 if categories else 1), 10)

    def forward(self, image: Tensor, beside: Tensor) -> Tensor:
        if self.categories is not None:
            beside = self.categories(beside).flatten(1)
        return self.head(torch.cat([self.image(image).relu(), beside], 1))


class Neighbours(nn.Module):
    """Mixes the samples of a batch by a matrix, which has a row for each, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = mlp(), nn.Linear(10, 10)

    def forward(self, x: Tensor, linked: Tensor) -> Tensor:
        return self.head((linked @ self.first(x)).relu())


def as_graph(samples: list[Any]) -> Any:
    x, y = (torch.stack([each[place] for each in samples]) for place in range(2))
    linked = (y[:, None] == y[None]).float()
    return x, linked / linked.sum(1, keepdim=True), y


def of_both(module: Any, batch: Any) -> Tensor:
    image, beside, label = batch
    return F.cross_entropy(module.net(image, beside=beside), label)


class Hooked(Foreign):
    """Gathers what its layers give, in hooks that are functions around the module."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.gathered: list[Tensor] = []

        def gather(layer: nn.Module, arguments: Any, outputs: Tensor) -> None:
            self.gathered.append(outputs.square().mean())

        for layer in self.net[1:]:
            layer.register_forward_hook(gather)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.gathered.clear()  # of those of a validation
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return loss + 0.01 * torch.stack(self.gathered).mean()


class Functions(Foreign):
    """Is made of functions around itself, one of them compiled."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.table = {"loss": lambda x, y: F.cross_entropy(self.net(x), y)}
        self.penalty = partial(Functions.weights, self)
        self.step = torch.compile(self.both, backend="eager")

    def weights(self, factor: float) -> Tensor:
        return factor * self.net[-1].weight.square().sum()

    def both(self, x: Tensor, y: Tensor) -> Tensor:
        return self.table["loss"](x, y) + self.penalty(1e-4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(*batch)


class Table(MutableMapping[str, Tensor]):
    """Keeps its entries in a dict, which a shallow copy shares."""

    def __init__(self, **entries: Tensor) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> Tensor:
        return self.entries[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to(self, device: Any) -> Table:
        return self


def as_table(samples: list[Any]) -> Table:
    return Table(**{name: torch.stack([each[place] for each in samples]) for place, name in enumerate("xy")})


class Outputs(Foreign):
    """Keeps its losses until the end of the epoch, as Lightning's migration guide has it."""

    def __init__(self) -> None:
        super().__init__(mlp(), 0.01)
        self.outs: list[Tensor] = []
        self.last: dict[str, Tensor] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.outs.append(loss)
        self.last["loss"] = loss
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean", torch.stack(self.outs).mean())
        self.outs.clear()


class Belongings(Outputs):
    """Keeps what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.net[1])
        self.lock, self.stream = threading.Lock(), (number for number in range(9))
        self.generator, self.itself = torch.Generator(), weakref.ref(self.net)
        self.file = open(__file__)  # noqa: SIM115

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with self.lock:
            self.noise = torch.rand(1, generator=self.generator)
            return super().training_step(batch, batch_idx)


class Sparing(Foreign):
    """Has no loss for every other batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 2 == 0 else super().training_step(batch, batch_idx)


class Clipped(GAN):
    """Clips the weights of the critic behind its step, as the first Wasserstein GAN does."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0].flatten(1)
        makes, judges = self.optimizers()
        fake = self.net(torch.randn(len(real), 4))
        judges.zero_grad()
        self.manual_backward(self.critic(fake.detach()).mean() - self.critic(real).mean())
        judges.step()
        with torch.no_grad():
            for parameter in self.critic.parameters():
                parameter.clamp_(-0.02, 0.02)
        makes.zero_grad()
        self.manual_backward(-self.critic(fake).mean())
        makes.step()


ALL = [name for name in GROUPS["default"] if name != "gradients_after_burn_in"]
NETWORK = [name for name in ALL if name not in ("loss_at_chance", "informative_inputs")]
LOSS = [name for name in NETWORK if name not in ("inputs", "outputs")]
PARTS = [*NETWORK, "loss_at_chance"]  # a class for each token or pixel

KINDS: dict[str, tuple[Callable[[], Any], Callable[[], Any], list[str]]] = {
    "dict with paths": (
        cross_entropy("image", "label"),
        lambda: loaded(lambda x, y, i: {"path": f"{i}.png", "weight": 1.0, "image": x, "label": y}),
        ALL,
    ),
    "named tuple": (lambda: Step(of_attributes), lambda: loaded(lambda x, y, i: Pair(x, y)), ALL),
    "dataclass": (
        lambda: Step(of_attributes),
        lambda: loaded(lambda x, y, i: Sample(x, y), collate_fn=as_dataclass),
        ALL,
    ),
    "dicts in a list": (
        lambda: Step(of_a_list),
        lambda: loaded(lambda x, y, i: {"image": x, "label": int(y), "path": f"{i}.png"}, collate_fn=list),
        ALL,
    ),
    "batches of one size, and a bank of the last outputs": (
        lambda: Banked(),
        lambda: loaded(lambda x, y, i: (x, y), drop_last=True),
        ALL,
    ),
    "weights normalized in the step": (
        lambda: Step(normalized),
        lambda: loaded(lambda x, y, i: (x, y)),
        [name for name in LOSS if name != "gradients"],
    ),
    "with indices": (cross_entropy(0, 2), lambda: loaded(lambda x, y, i: (x, i % 10, y)), ALL),
    "stream": (cross_entropy(0, 1), lambda: DataLoader(Stream(), 32), ALL),
    "stream of a generator": (
        cross_entropy(0, 1),
        lambda: DataLoader(Generated(), 32),
        [name for name in ALL if name != "informative_inputs"],  # of which it wants more than a batch
    ),
    "dict of loaders": (
        lambda: Step(lambda module, batch: F.cross_entropy(module.net(batch["a"][0]), batch["a"][1])),
        lambda: {name: loaded(lambda x, y, i: (x, y)) for name in "ab"},
        ALL,
    ),
    "list of loaders": (
        lambda: Step(lambda module, batch: sum(F.cross_entropy(module.net(x), y) for x, y in batch)),
        lambda: [loaded(lambda x, y, i: (x, y)) for _ in range(2)],
        LOSS,
    ),
    "regression": (
        lambda: Step(lambda module, batch: F.mse_loss(module.net(batch[0])[:, :1], batch[1])),
        lambda: loaded(lambda x, y, i: (x, x.mean().reshape(1))),
        NETWORK,
    ),
    "one logit": (
        lambda: Step(
            lambda module, batch: F.binary_cross_entropy_with_logits(module.net(batch[0])[:, 0], batch[1])
        ),
        lambda: loaded(lambda x, y, i: (x, (y > 4).float())),
        NETWORK,
    ),
    "multi-label": (
        lambda: Step(
            lambda module, batch: F.binary_cross_entropy_with_logits(module.net(batch[0]), batch[1])
        ),
        lambda: loaded(lambda x, y, i: (x, (torch.arange(10) % (y + 1) == 0).float())),
        NETWORK,
    ),
    "segmentation": (
        lambda: Step(
            lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]),
            net=nn.Conv2d(1, 2, 3, padding=1),
        ),
        lambda: loaded(lambda x, y, i: (x, (x[0] > 0).long())),
        PARTS,
    ),
    "tokens": (lambda: Step(next_token, net=Tokens()), lambda: loaded(lambda x, y, i: (ids(x),)), PARTS),
    "keywords": (
        lambda: Step(lambda module, batch: module.net(**batch)["loss"], net=Keywords()),
        lambda: loaded(lambda x, y, i: {"ids": ids(x) // 4 + y, "mask": torch.ones(12), "labels": y}),
        ALL,
    ),
    "outputs in a dataclass": (
        lambda: Step(
            lambda module, batch: F.cross_entropy(module.net(batch[0]).outputs, batch[1]), net=Wrapped()
        ),
        lambda: loaded(lambda x, y, i: (x, y)),
        ALL,
    ),
    "two networks": (
        lambda: Step(
            lambda module, batch: F.cross_entropy(module.head(module.net(batch[0]).relu()), batch[1]),
            head=nn.Linear(10, 10),
        ),
        lambda: loaded(lambda x, y, i: (x, y)),
        ALL,
    ),
    "an image and numbers": (
        lambda: Step(of_both, net=Beside(categories=False)),
        lambda: loaded(lambda x, y, i: (x, x[0, 4], y)),
        ALL,
    ),
    "an image and categories": (
        lambda: Step(of_both, net=Beside(categories=True)),
        lambda: loaded(lambda x, y, i: (x, ids(x)[:8], y)),
        ALL,
    ),
    "samples mixed by a matrix": (
        lambda: Step(
            lambda module, batch: F.cross_entropy(module.net(*batch[:2]), batch[2]), net=Neighbours()
        ),
        lambda: loaded(lambda x, y, i: (x, y), collate_fn=as_graph),
        LOSS,
    ),
    "a regression of two inputs": (
        lambda: Step(
            lambda module, batch: F.mse_loss(module.net(batch[0], batch[1])[:, :1], batch[2]),
            net=Beside(categories=False),
        ),
        lambda: loaded(lambda x, y, i: (x, x[0, 4], x.mean().reshape(1))),
        NETWORK,
    ),
    "hooks that gather outputs": (Hooked, lambda: loaded(lambda x, y, i: (x, y)), LOSS),
    "functions around the module": (Functions, lambda: loaded(lambda x, y, i: (x, y)), ALL),
    "a table of one's own": (
        cross_entropy("x", "y"),
        lambda: loaded(lambda x, y, i: (x, y), collate_fn=as_table),
        ALL,
    ),
    "keywords, and the loss outside": (
        lambda: Step(
            lambda module, batch: F.cross_entropy(module.net(ids=batch["ids"]).mean(1), batch["y"]),
            net=Tokens(),
        ),
        lambda: loaded(lambda x, y, i: {"ids": ids(x), "y": y}),
        PARTS,
    ),
    "VAE": (
        lambda: Step(vae, net=nn.Linear(64, 8), decoder=nn.Linear(4, 64)),
        lambda: loaded(lambda x, y, i: (x, y)),
        LOSS,
    ),
    "a gradient within the step": (
        lambda: Step(slopes, net=nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1))),
        lambda: loaded(lambda x, y, i: (x, x.mean().reshape(1))),
        LOSS,
    ),
    "compiled as a whole": (
        lambda: torch.compile(Step(cross_entropy_of, net=mlp(norm=True)), disable=True),
        lambda: loaded(lambda x, y, i: (x, y)),
        ALL,
    ),
    "two views": (lambda: Step(views), lambda: loaded(lambda x, y, i: (x, y), drop_last=True), LOSS),
    "teacher": (
        lambda: Taught(),
        lambda: loaded(lambda x, y, i: (x, y)),
        LOSS,
    ),
    "tasks in turns": (lambda: Turns(), lambda: loaded(lambda x, y, i: (x, y)), ALL),
    "tasks in turns of steps": (lambda: TurnsOfSteps(), lambda: loaded(lambda x, y, i: (x, y)), ALL),
    "teacher that follows later": (lambda: Follows(), lambda: loaded(lambda x, y, i: (x, y)), LOSS),
    "spectral norm": (
        lambda: Step(cross_entropy_of, net=spectral()),
        lambda: loaded(lambda x, y, i: (x, y)),
        ALL,
    ),
    "GAN whose critic is clipped": (
        Clipped,
        lambda: loaded(lambda x, y, i: (x, y)),
        [name for name in LOSS if name != "gradients"],
    ),
    "GAN": (GAN, lambda: loaded(lambda x, y, i: (x, y)), LOSS),
    "losses kept": (Outputs, lambda: loaded(lambda x, y, i: (x, y)), ALL),
    "belongings": (Belongings, lambda: loaded(lambda x, y, i: (x, y)), ALL),
    "None first": (lambda: Sparing(mlp()), lambda: loaded(lambda x, y, i: (x, y)), ALL),
}


class Taught(Step):
    """A teacher that no optimizer has."""

    def __init__(self) -> None:
        def loss(module: Any, batch: Any) -> Tensor:
            with torch.no_grad():
                wanted = module.teacher(batch[0]).softmax(1)
            return F.cross_entropy(module.net(batch[0]), wanted)

        super().__init__(loss, teacher=mlp(norm=True))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), 1e-2)


class Follows(Taught):
    """Moves its teacher in the training step itself, after some steps."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step > 1:
            with torch.no_grad():
                for its, mine in zip(self.teacher.parameters(), self.net.parameters(), strict=False):
                    its.lerp_(mine, 0.1) if its.shape == mine.shape else None
        return super().training_step(batch, batch_idx)


class TurnsOfSteps(Foreign):
    """Trains one of two heads, and asks its trainer in `forward` which."""

    def __init__(self) -> None:
        super().__init__(mlp(), 0.01)
        self.heads = nn.ModuleList(nn.Linear(10, 10) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[self.trainer.global_step % 2](self.net(x).relu()) * len(
            self.trainer.train_dataloader
        )

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1])


def spectral() -> nn.Sequential:
    """A first convolution whose weight changes when it is asked for."""
    layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    for layer in (layers[0], layers[3]):
        nn.utils.parametrizations.spectral_norm(layer)
    return layers


def cross_entropy_of(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module.net(batch[0]), batch[1])


class Turns(Step):
    """Trains one of two heads with every batch."""

    def __init__(self) -> None:
        super().__init__(lambda module, batch: None, heads=nn.ModuleList(nn.Linear(10, 10) for _ in range(2)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.heads[batch_idx % 2](self.net(batch[0]).relu()), batch[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_looked_at_and_left_as_it_was(kind: str, tmp_path: Path) -> None:
    make, data, names = KINDS[kind]

    def run(*callbacks: L.Callback) -> list[Any]:
        torch.manual_seed(0)
        module, loader = make(), data()
        trainer = fit(module, tmp_path, *callbacks, train=loader, limit_val_batches=int("GAN" not in kind))
        states = [optimizer.state_dict() for optimizer in trainer.optimizers]
        return copy.deepcopy([module.state_dict(), states, torch.get_rng_state(), random.getstate()])

    checks, diagnosis = quick(tiny_subset_steps=100, samples=128), Diagnosis(report=False)
    assert same(run(), run(checks, *monitors(), diagnosis))
    looked = [row.name for row in checks.rows if row.verdict != "skipped"]
    bare = {"validation_mode", "regularization", "inputs", "running_statistics"}  # of no use here
    assert set(names) - bare <= set(looked) <= set(names)
    assert alarms(checks.findings) == []
    said = [
        finding.message for finding in [*checks.findings, *diagnosis.findings] if finding.cause == "skipped"
    ]
    assert not [message for message in said if "Error" in message], said
    watched = not any(message.startswith("Histograms: your training_step changes") for message in said)
    assert watched or "later" in kind


@pytest.mark.parametrize(("factor", "causes"), [(1, []), (1000, ["input-not-normalized"])])
def test_numbers_beside_categories_are_judged_by_their_scale(
    factor: int, causes: list[str], tmp_path: Path
) -> None:
    checks = quick(checks=["inputs"])
    data = loaded(lambda x, y, i: (factor * (x + factor - 1), ids(x)[:8], y))
    fit(Step(of_both, net=Beside(categories=True)), tmp_path, checks, train=data)
    assert [row.verdict == "skipped" for row in checks.rows] == [False]
    assert alarms(checks.findings) == causes


def test_a_copy_does_not_grow_with_what_the_step_keeps(tmp_path: Path) -> None:
    module = Outputs()
    seen: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            twin = Twin(trainer, pl_module)
            for _ in range(3):
                twin.training_loss(batch).backward()
            seen.append(len(twin.module.outs) - len(pl_module.outs))
            assert all(loss.grad_fn is None for loss in twin.module.outs)
            pl_module.zero_grad()

    fit(module, tmp_path, Watch(), train=DataLoader(TensorDataset(*digits(64)), 16), limit_val_batches=0)
    assert seen == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "names", [("first", "last"), ("number", "calls"), ("places", "rows"), ("facts", "owner")]
)
def test_parts_may_have_any_name(names: tuple[str, str], tmp_path: Path) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        first, second = (getattr(module, name) for name in names)
        return F.cross_entropy(second(first(batch[0]).relu()), batch[1])

    trunk, head = nn.Sequential(nn.Flatten(), nn.Linear(64, 16)), nn.Linear(16, 10)
    module = Step(loss, net=nn.Identity(), **dict(zip(names, (trunk, head), strict=True)))
    checks = quick(checks=["wiring", "layer_variance"])
    fit(module, tmp_path, checks, limit_val_batches=0)
    assert {finding.cause for finding in checks.findings} == {"wiring-correct", "variance-level"}


def test_a_failing_step_is_named_in_its_own_words(tmp_path: Path) -> None:
    def loss(module: Any, batch: Any) -> Any:
        if module.trainer.sanity_checking is False and not hasattr(module, "seen_once"):
            raise KeyError("label")

    checks = quick()
    with pytest.raises(KeyError):
        fit(Step(loss), tmp_path, checks, train=loaded(lambda x, y, i: (x, y)), limit_val_batches=0)
    assert checks.findings[0].message == (
        'Checks: your training_step fails with KeyError at `raise KeyError("label")` '
        f"(test_any_step.py, line {loss.__code__.co_firstlineno + 2})."
    )


class FeaturesBeside(nn.Module):
    """Gives its features and its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()),
            nn.Linear(16, 10),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return features, self.head(features)


def test_a_loss_of_outputs_and_features_of_one_network_is_weighed_against_penalties(tmp_path: Path) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        features, outputs = module.net(batch[0])
        return F.cross_entropy(outputs, batch[1]) + 0.1 * features.square().mean()

    checks = SanityChecks(["regularization"])
    fit(Step(loss, net=FeaturesBeside()), tmp_path, checks, train=loaded(lambda x, y, i: (x, y)))
    [row] = checks.rows
    assert [finding.message for finding in row.findings] == ["The optimizer has no weight decay."]


def test_what_a_step_says_is_heard_as_often_as_it_is_trained(
    tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        print("a loss")
        print("a loss", file=sys.stderr)
        logging.getLogger("theirs").warning("a loss")
        breakpoint()
        return F.cross_entropy(module.net(batch[0]), batch[1])

    stops: list[int] = []
    before, sys.breakpointhook = sys.breakpointhook, lambda: stops.append(1)
    try:
        checks = quick(tiny_subset_steps=20)
        trainer = fit(Step(loss), tmp_path, checks, Histograms(), train=loaded(lambda x, y, i: (x, y)))
    finally:
        sys.breakpointhook = before
    said = capsys.readouterr()
    counts = [said.out.count("a loss"), said.err.count("a loss"), caplog.text.count("a loss"), len(stops)]
    assert counts == [trainer.global_step] * 4
    assert "Before learning" in said.out


class Itself:
    """What a deep copy gives back as it is."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class SelfishLayer(Itself, nn.Linear):
    pass


class SelfishParameter(Itself, nn.Parameter):
    pass


@pytest.mark.parametrize("where", ["self.net.1", "self.net.1.weight"])
def test_a_part_that_gives_itself_for_a_copy_is_left_alone(where: str, tmp_path: Path) -> None:
    layer = SelfishLayer(64, 10) if where == "self.net.1" else nn.Linear(64, 10)
    if where.endswith("weight"):
        layer.weight = SelfishParameter(layer.weight.detach().clone())
    checks, module = quick(), Foreign(nn.Sequential(nn.Flatten(), layer))
    fit(module, tmp_path, checks, limit_val_batches=0, limit_train_batches=1)
    assert checks.findings[0].message.startswith(f"Checks: {where} gives itself for a copy")
    assert module.net[1].weight.dtype == torch.float32  # gradients are compared in float64
    assert module.net[1].weight.shape == (10, 64)


@pytest.mark.parametrize(("loss", "shared"), [(cross_entropy_of, True), (normalized, False)])
def test_parameters_are_shared_with_the_training_unless_the_step_writes_to_them(
    loss: Callable[[Any, Any], Any], shared: bool, tmp_path: Path
) -> None:
    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            setup = training_setup(trainer, pl_module, 32)
            pairs = zip(setup.step.owner.parameters(), pl_module.parameters(), strict=True)
            seen.extend(mine.data_ptr() == its.data_ptr() for mine, its in pairs)

    seen: list[bool] = []
    data = loaded(lambda x, y, i: (x, y))
    fit(Step(loss), tmp_path, Look(), train=data, limit_val_batches=0, limit_train_batches=1)
    assert set(seen) == {shared}


def test_a_detached_network_is_found_in_a_step_of_two(tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    module = Step(
        lambda module, batch: F.cross_entropy(module.head(module.net(batch[0]).detach()), batch[1]),
        head=nn.Linear(10, 10),
    )
    fit(module, tmp_path, checks, train=loaded(lambda x, y, i: (x, y)), limit_val_batches=0)
    assert alarms(checks.findings) == ["frozen-parameters"]
    assert "'net.1.weight'" in checks.findings[0].message


class Half(Step):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), 1e-2)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, ["frozen-parameters"]), (3.0, [])])
def test_a_part_that_no_optimizer_has_was_forgotten_unless_its_weights_were_loaded(
    scale: float, expected: list[str], tmp_path: Path
) -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64))
    with torch.no_grad():
        encoder[1].weight.mul_(scale)
    checks = quick(checks=["wiring"])
    module = Half(
        lambda module, batch: F.mse_loss(module.net(module.encoder(batch[0]).relu()), batch[1]),
        net=nn.Linear(64, 1),
        encoder=encoder,
    )
    data = loaded(lambda x, y, i: (x, x.mean().reshape(1)))
    fit(module, tmp_path, checks, train=data, limit_val_batches=0, limit_train_batches=1)
    assert alarms(checks.findings) == expected


@pytest.mark.parametrize("loaded_before", [False, True])
def test_forgotten_embeddings_and_recurrences_are_told_from_loaded_ones(
    loaded_before: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    words, reader = nn.Embedding(17, 16, padding_idx=16), nn.GRU(16, 16, batch_first=True)
    if loaded_before:
        for weight in (words.weight, *reader.parameters()):
            weight.data.mul_(1 + torch.rand_like(weight))
    module = Half(
        lambda module, batch: F.cross_entropy(
            module.net(module.reader(module.words(batch[0]))[0][:, -1]), batch[1]
        ),
        net=nn.Linear(16, 10),
        words=words,
        reader=reader,
    )
    checks = quick(checks=["wiring"])
    data = loaded(lambda x, y, i: (ids(x), y))
    fit(module, tmp_path, checks, train=data, limit_val_batches=0, limit_train_batches=1)
    assert alarms(checks.findings) == ([] if loaded_before else ["frozen-parameters"])


def of_arrays(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module.net(torch.as_tensor(batch["image"])), torch.as_tensor(batch["label"]))


def in_arrays(samples: list[Any]) -> dict[str, Any]:
    return {key: np.stack([sample[key].numpy() for sample in samples]) for key in ("image", "label")}


class LooksAtGradients(Foreign):
    """Optimizes by hand, and logs the norm of the gradients that it finds there."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = F.cross_entropy(self.net(batch["image"]), batch["label"])
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.log("norm", torch.stack([p.grad.norm() for p in self.net.parameters()]).norm())
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "collate"),
    [
        (cross_entropy("image", "label"), None),
        (partial(Step, of_arrays), in_arrays),
        (LooksAtGradients, None),
    ],
    ids=["dicts", "arrays", "by hand"],
)
def test_random_labels_are_found_whatever_the_step_is_like(make: Any, collate: Any, tmp_path: Path) -> None:
    labels = torch.randint(0, 10, (512,), generator=torch.Generator().manual_seed(0))
    images = digits(512)[0]
    data = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    checks = quick(checks=["informative_inputs"], samples=512)
    train = DataLoader(data, 32, collate_fn=collate)
    fit(make(), tmp_path, checks, train=train, limit_val_batches=0)
    assert alarms(checks.findings) == ["labels-random"]


def squared_prices(module: Any, batch: Any) -> Tensor:
    return F.mse_loss(module.net(batch[0]), batch[1].float())


def squashed_tags(module: Any, batch: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(module.net(batch[0]), batch[1])


def tokens(spread: float) -> nn.Module:
    head = nn.Linear(16, 8, bias=False)
    nn.init.normal_(head.weight, std=spread)
    return nn.Sequential(nn.Embedding(8, 16), nn.Linear(16, 16), nn.LayerNorm(16), head)


def taught_by_shares(module: Any, batch: Any) -> Tensor:
    return F.kl_div(module.net(batch[0]).softmax(1), batch[1], reduction="batchmean")


def vectors(frozen: bool = True, padding: int | None = None) -> nn.Module:
    table = nn.Embedding.from_pretrained(torch.randn(17, 16), freeze=frozen, padding_idx=padding)
    if padding is not None:
        table.weight[padding] = 0
    return nn.Sequential(table, nn.Flatten(), nn.Linear(12 * 16, 10))


def adapted() -> nn.Module:
    """A base that is frozen as a whole, of which the table has hardly been trained, and what is trained."""
    base = nn.Sequential(nn.Embedding(17, 16), nn.Flatten(), nn.Linear(12 * 16, 32), nn.ReLU())
    base.requires_grad_(False)[2].weight.mul_(1 + torch.rand(32, 1))
    return nn.Sequential(base, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


class BothWays(nn.Module):
    """Each place of a sequence sees all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(8, 16), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(x + x.mean(1, keepdim=True))


class WithLoss(nn.Module):
    """Makes its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(images).softmax(1), labels)


class TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.classes, self.number = nn.Linear(16, 10), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes(hidden := self.body(x)), self.number(hidden)[:, 0]


def both_answers(module: Any, batch: Any) -> Tensor:
    classes, number = module.net(batch[0])
    return F.cross_entropy(classes, batch[1]) + F.mse_loss(number, batch[1] / 3)


MIXED = torch.tensor([0.7, 0.3])
"""Shares of two images in one."""

SLIPS: dict[str, tuple[Callable[[Any, Any], Tensor], Callable[[], nn.Module], Any, str, str]] = {
    "a column against a row": (
        squared_prices,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1)),
        lambda x, y, i: (x, y),
        "wiring",
        "labels-random",
    ),
    "a sigmoid before the loss that applies one": (
        squashed_tags,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3), nn.Sigmoid()),
        lambda x, y, i: (x, torch.tensor([y % 2, y > 4, y > 6]).float()),
        "wiring",
        "double-softmax",
    ),
    "probabilities of the classes of pixels": (
        lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]),
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Softmax(1)),
        lambda x, y, i: (x, (x[0] > 0).long() + (x[0] > 1).long()),
        "wiring",
        "double-softmax",
    ),
    "probabilities into a loss that the network makes": (
        lambda module, batch: module.net(images=batch[0], labels=batch[1]),
        WithLoss,
        lambda x, y, i: (x, y),
        "wiring",
        "double-softmax",
    ),
    "shares into a divergence": (
        taught_by_shares,
        mlp,
        lambda x, y, i: (x, F.one_hot(y, 10) * 0.5 + 0.05),
        "wiring",
        "wrong-initial-loss",
    ),
    "masks of 0 and 255": (
        squashed_tags,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)),
        lambda x, y, i: (x, 255 * torch.tensor([y % 2, y > 4, y > 6]).float()),
        "wiring",
        "wrong-initial-loss",
    ),
    "vectors frozen as they were drawn": (
        lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]),
        vectors,
        lambda x, y, i: (ids(x), y),
        "wiring",
        "frozen-parameters",
    ),
    "vectors with padding, frozen as they were drawn": (
        lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]),
        partial(vectors, padding=0),
        lambda x, y, i: (ids(x), y),
        "wiring",
        "frozen-parameters",
    ),
    "a loud column where there are two answers": (
        both_answers,
        TwoAnswers,
        lambda x, y, i: (torch.cat([x.flatten()[:-1], torch.tensor([5e4 + 3e4 * (i % 7)])]), y),
        "layer_variance",
        "input-not-normalized",
    ),
    "the next token seen": (
        next_token,
        BothWays,
        lambda x, y, i: (torch.randint(8, (7,), generator=torch.Generator().manual_seed(i)),),
        "wiring",
        "data-leak",
    ),
    "one-hot labels, nearly all of one class": (
        lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]),
        mlp,
        lambda x, y, i: (x, F.one_hot(y * (i % 16 == 0), 10).float()),
        "inputs",
        "class-imbalance",
    ),
    "labels mixed of two, nearly all of one class": (
        lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]),
        mlp,
        lambda x, y, i: (x, F.one_hot(y * torch.tensor([i % 16 == 0, i % 16 == 1]), 10).T.float() @ MIXED),
        "inputs",
        "class-imbalance",
    ),
    "rows of 1 and -1, nearly all of one class": (
        lambda module, batch: F.mse_loss(module.net(batch[0]), batch[1]),
        mlp,
        lambda x, y, i: (x, 2.0 * F.one_hot(y * (i % 16 == 0), 10) - 1),
        "inputs",
        "class-imbalance",
    ),
    "masks of one class": (
        lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]),
        lambda: nn.Conv2d(1, 3, 3, padding=1),
        lambda x, y, i: (x, ((x[0] > 0).byte() / 255).long()),
        "inputs",
        "class-imbalance",
    ),
    "loud outputs for each token": (
        next_token,
        lambda: tokens(3.0),
        lambda x, y, i: ((torch.arange(6) + y) % 8,),
        "loss_at_chance",
        "wrong-initial-loss",
    ),
}


@pytest.mark.parametrize("kind", SLIPS)
def test_slips_of_losses_that_take_no_class_number_are_found(kind: str, tmp_path: Path) -> None:
    loss, net, make, check, cause = SLIPS[kind]
    checks = quick(checks=[check])
    fit(Step(loss, net=net()), tmp_path, checks, train=loaded(make), limit_val_batches=0)
    assert alarms(checks.findings) == [cause]


class Skipped(nn.Module):
    """A residual block that half of the steps leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x).relu() if not self.training or torch.rand(()) < 0.5 else x


def test_blocks_left_out_at_random_are_not_frozen(tmp_path: Path) -> None:
    blocks = [Skipped() for _ in range(8)]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *blocks, nn.Linear(16, 10))
    checks = quick(checks=["wiring"])
    module = Step(lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1]), net=net)
    fit(module, tmp_path, checks, train=loaded(lambda x, y, i: (x, y)), limit_val_batches=0)
    assert alarms(checks.findings) == []


def test_right_losses_of_the_same_kinds_raise_no_alarm(tmp_path: Path) -> None:
    _, prices, numbers, *_ = SLIPS["a column against a row"]
    _, tags, several, *_ = SLIPS["a sigmoid before the loss that applies one"]
    _, _, places, *_ = SLIPS["loud outputs for each token"]
    _, students, soft, *_ = SLIPS["shares into a divergence"]
    _, _, spelled, *_ = SLIPS["vectors frozen as they were drawn"]
    _, masked, _, *_ = SLIPS["masks of one class"]

    def taught(module: Any, batch: Any) -> Tensor:
        return F.kl_div(module.net(batch[0]).log_softmax(1), batch[1], reduction="batchmean")

    def named(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module.net(batch[0]), batch[1])

    right: list[tuple[Any, nn.Module, Any]] = [
        (lambda module, batch: F.mse_loss(module.net(batch[0])[:, 0], batch[1].float()), prices(), numbers),
        (squashed_tags, tags()[:-1], several),
        (lambda module, batch: F.binary_cross_entropy(module.net(batch[0]), batch[1]), tags(), several),
        (next_token, tokens(0.1), places),
        (taught, students(), soft),
        (named, vectors(frozen=False), spelled),
        (named, adapted(), spelled),
        (both_answers, TwoAnswers(), lambda x, y, i: (x, y)),
        (named, masked(), lambda x, y, i: (x, (x[0] > 0).long())),
    ]
    for loss, net, make in right:
        checks = quick(checks=["inputs", "wiring", "loss_at_chance", "layer_variance"])
        fit(Step(loss, net=net), tmp_path, checks, train=loaded(make), limit_val_batches=0)
        assert alarms(checks.findings) == []


class Told(Step):
    """Learns from labels and from what a teacher said, which is stored in the order of the data set."""

    def __init__(self, by_index: bool) -> None:
        super().__init__(self.loss_of)
        self.said, self.by_index = 8 * F.one_hot(digits()[1], 10).float(), by_index

    @staticmethod
    def loss_of(module: Any, batch: Any) -> Tensor:
        images, labels, index = batch
        logits = module.net(images)
        said = module.said[index if module.by_index else slice(0, len(labels))].softmax(1)
        return F.cross_entropy(logits, labels) + F.kl_div(logits.log_softmax(1), said, reduction="batchmean")


@pytest.mark.parametrize(("by_index", "found"), [(True, []), (False, ["labels-random"])])
def test_what_a_teacher_said_of_other_samples_is_told(
    tmp_path: Path, by_index: bool, found: list[str]
) -> None:
    checks = quick(checks=["wiring", "informative_inputs"], samples=256)
    train = loaded(lambda x, y, i: (x, y, i))
    fit(Told(by_index), tmp_path, checks, train=train, limit_val_batches=0, limit_train_batches=1)
    assert alarms(checks.findings) == found


def test_what_a_contrastive_loss_is_told_of_pairs_is_not_of_classes(tmp_path: Path) -> None:
    def of_pairs(module: Any, batch: Any) -> Tensor:
        logits = module.net(batch[0])
        one = F.normalize(logits, dim=1)
        return F.cross_entropy(logits, batch[1]) + F.cross_entropy(5 * one @ one.T, torch.eye(len(one)))

    checks = quick(checks=["wiring"])
    fit(Step(of_pairs), tmp_path, checks, train=loaded(lambda x, y, i: (x, y)), limit_val_batches=0)
    assert alarms(checks.findings) == []


class Temperature(Foreign):
    """One number, by which the outputs of a trained network are divided."""

    def __init__(self) -> None:
        super().__init__(mlp().requires_grad_(False))
        self.temperature = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]) / self.temperature, batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.temperature], 0.1)


def test_one_number_is_not_asked_to_learn_examples_by_heart(tmp_path: Path) -> None:
    checks = quick(checks=["tiny_subset"], tiny_subset_steps=20)
    fit(Temperature(), tmp_path, checks, train=loaded(lambda x, y, i: (x, y)), limit_val_batches=0)
    assert alarms(checks.findings) == []
    assert any("too few to tell the examples apart" in each.message for each in checks.findings)
