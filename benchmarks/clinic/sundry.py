"""Healthy runs of kinds of training that none of the other files has, hardly one of them an image classifier:
densities, boxes, rankings, preferences, pruned and probabilistic weights. A tool is to keep silent on each.
Written before any of them was watched.

Validation accuracy where there is one, validation and training loss after the last epoch, one seed:

                                            acc     val   train
    bicycles-by-the-hour                           -4.41   -4.99
    points-in-any-order                     1.00    0.02    0.06
    several-answers-to-one-question                -0.50   -0.45
    boxes-in-a-grid                                 0.44    0.30
    clipped-surrogate                              -0.01    0.01
    lists-in-order                                  1.96    1.96
    heads-relations-tails                           0.77    0.63
    overlap-of-masks                                0.82    0.90
    noise-taken-off                                 0.71    0.76
    labels-for-one-in-five                  0.39    2.90    0.30
    weights-with-a-spread                   0.92    1.64    1.66
    sparse-features-of-activations                  1.92    1.90
    molecules-in-a-batch                            0.42    0.58
    a-third-pruned-each-epoch               0.46    1.49    1.14
    preferred-answers                       0.86    0.41    0.38
    choices-by-gumbel                             171.64  170.40
    temperature-alone                       0.43    1.57    1.54
    states-that-are-complex                 1.00    0.01    0.01
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from clinic import CaseBook, Classifier, Images, Session
from healthy import Task, correct, fitting, halves, shapes
from lightning.pytorch.callbacks import Callback, ModelPruning
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset
from wild import Pair, conv_unit, plain_cnn, pretrained, run, standard

CASES = CaseBook()


class Counts(Task):
    """Poisson's likelihood of a count whose logarithm the network gives."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, count = batch
        return F.poisson_nll_loss(self(x).squeeze(1), count), {}


@CASES.healthy(
    "bicycles-by-the-hour", story="A Poisson regression with a network: nn.PoissonNLLLoss, a loss below zero."
)
def bicycles(images: Images) -> Session:
    hour, warm, wet = 24 * torch.rand(4000), torch.randn(4000), (torch.rand(4000) < 0.3).float()
    rate = (1.5 + (hour * math.pi / 12).sin() + 0.4 * warm - wet).exp()
    angle = hour * math.pi / 12
    x = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), warm, wet], 1)
    net = nn.Sequential(nn.Linear(5, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))
    return fitting(Counts(net, partial(Adam, lr=1e-3)), *halves(x, torch.poisson(rate)), epochs=10)


class PointNet(nn.Module):
    """A shared network for each point, and the largest of what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Conv1d(3, 32, 1),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Conv1d(32, 96, 1),
            nn.BatchNorm1d(96),
            nn.ReLU(),
        )
        self.all = nn.Sequential(nn.Linear(96, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(48, 4)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.all(self.each(points.transpose(1, 2)).amax(2)))


class Labelled(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), {"acc": correct(logits, y)}


@CASES.healthy(
    "points-in-any-order",
    story="PointNet on clouds of spheres, boxes, cylinders and cones, turned and jittered.",
)
def points_in_any_order(images: Images) -> Session:
    count, points = 1600, 64
    y = torch.randint(4, (count,))
    raw = torch.randn(count, points, 3)
    sphere = F.normalize(raw, dim=2)
    box = raw.clamp(-1, 1)
    box = box / box.abs().amax(2, keepdim=True)
    flat = F.normalize(raw[..., :2], dim=2)
    height = 2 * torch.rand(count, points, 1) - 1
    cylinder = torch.cat([flat, height], 2)
    cone = torch.cat([flat * (1 - height) / 2, height], 2)
    clouds = torch.stack([sphere, box, cylinder, cone])[y, torch.arange(count)]
    angle = 2 * math.pi * torch.rand(count)
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 0, 1], turn[:, 1, 0], turn[:, 2, 2] = -angle.sin(), angle.sin(), 1.0
    clouds = clouds @ turn + 0.02 * torch.randn(count, points, 3)
    return fitting(Labelled(PointNet(), partial(Adam, lr=1e-3)), *halves(clouds, y), epochs=4, batch=32)


class Mixture(Task):
    """The density of an answer as a sum of five Gaussians, the inverse sine of a noisy sine."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        shares, means, logs = self(x).chunk(3, 1)
        each = torch.distributions.Normal(means, logs.exp()).log_prob(y)
        return -(shares.log_softmax(1) + each).logsumexp(1).mean(), {}


@CASES.healthy(
    "several-answers-to-one-question", story="Bishop's mixture density network on the inverse of a wave."
)
def several_answers(images: Images) -> Session:
    y = 2 * torch.rand(3000, 1) - 1
    x = y + 0.3 * (2 * math.pi * y).sin() + 0.05 * torch.randn(3000, 1)
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 15))
    return fitting(Mixture(net, partial(Adam, lr=1e-2)), *halves(x, y), epochs=15)


class Boxes(Task):
    """One stage: for each cell whether a thing is there, where in it and how large, and of which kind."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, there, where, kind = batch
        out = self(x)
        found = F.binary_cross_entropy_with_logits(out[:, 0], there)
        at = there > 0.5
        box = F.smooth_l1_loss(out[:, 1:4].permute(0, 2, 3, 1)[at], where[at])
        named = F.cross_entropy(out[:, 4:].permute(0, 2, 3, 1)[at], kind[at])
        right = ((out[:, 0] > 0) & at).float().sum() / at.sum()
        return 5 * found + box + named, {"box": box, "recall": right}


@CASES.healthy(
    "boxes-in-a-grid", story="A detector of one stage: 36 cells, nine in ten empty, three losses weighed."
)
def boxes_in_a_grid(images: Images) -> Session:
    count = 1200
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    x = 0.3 * torch.randn(count, 3, 24, 24)
    there, kind = torch.zeros(count, 6, 6), torch.zeros(count, 6, 6, dtype=torch.long)
    where = torch.zeros(count, 6, 6, 3)
    every = torch.arange(count)
    for _ in range(3):
        cell, inside = torch.randint(6, (count, 2)), torch.rand(count, 2)
        size, of = 1.5 + 2 * torch.rand(count), torch.randint(3, (count,))
        middle = 4 * (cell + inside)
        down = (rows - middle[:, :1, None]).abs()
        across = (columns - middle[:, 1:, None]).abs()
        shape = torch.where(of.view(-1, 1, 1) == 0, down + across, torch.maximum(down, across))
        x[every, of] += 1.5 * (shape < size.view(-1, 1, 1)).float()
        there[every, cell[:, 0], cell[:, 1]] = 1.0
        where[every, cell[:, 0], cell[:, 1]] = torch.cat([inside, size.log().unsqueeze(1)], 1)
        kind[every, cell[:, 0], cell[:, 1]] = of
    net = nn.Sequential(
        conv_unit(3, 24, norm="batch"),
        conv_unit(24, 32, 2, norm="batch"),
        conv_unit(32, 48, 2, norm="batch"),
        nn.Conv2d(48, 7, 1),
    )
    nn.init.constant_(cast(Tensor, net[-1].bias)[:1].data, -2.0)
    module = Boxes(net, partial(AdamW, lr=2e-3, weight_decay=0.05))
    return fitting(module, *halves(x, there, where, kind), epochs=6, batch=32)


class Surrogate(Task):
    """PPO: the clipped surrogate, the value and the entropy of stored episodes, several passes."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        state, action, before, advantage, returned = batch
        out = self(state)
        said = torch.distributions.Categorical(logits=out[:, :4])
        ratio = (said.log_prob(action) - before).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        value = F.mse_loss(out[:, 4], returned)
        entropy = said.entropy().mean()
        return policy + 0.5 * value - 0.01 * entropy, {"value": value, "entropy": entropy}


@CASES.healthy(
    "clipped-surrogate", story="PPO's update: ten passes over one rollout, ratios from one, clipped at 0.2."
)
def clipped_surrogate(images: Images) -> Session:
    net = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    for module, gain in ((net[0], 1.4), (net[2], 1.4), (net[4], 0.01)):
        nn.init.orthogonal_(module.weight, gain)  # type: ignore[arg-type]
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    state = torch.randn(2048, 6)
    with torch.no_grad():
        out = net(state)
        said = torch.distributions.Categorical(logits=out[:, :4])
        action = said.sample()
        best = (state @ torch.randn(6, 4)).argmax(1)
        reward = (action == best).float() + 0.5 * state[:, 0] + 0.1 * torch.randn(2048)
        stored = (state, action, said.log_prob(action), reward - out[:, 4], reward)
    module = Surrogate(net, partial(Adam, lr=3e-4, eps=1e-5))
    return fitting(module, *halves(*stored), epochs=10, gradient_clip_val=0.5)


class Ranked(Task):
    """ListNet: the order of twelve documents to a question, by a softmax over the list."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, relevance = batch
        scores = self(x).squeeze(2)
        loss = F.cross_entropy(scores, relevance.softmax(1))
        first = relevance.gather(1, scores.argmax(1, keepdim=True)).mean()
        return loss, {"first": first}


@CASES.healthy("lists-in-order", story="ListNet: a softmax over the list, grades as its target distribution.")
def lists_in_order(images: Images) -> Session:
    x = torch.randn(2000, 12, 10)
    taste = torch.randn(10) / 2
    grades = (x @ taste + (x[..., 0] * x[..., 1]) + 0.3 * torch.randn(2000, 12)).clamp(-2, 2).round() + 2
    net = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 1))
    return fitting(Ranked(net, partial(Adam, lr=3e-3)), *halves(x, grades), epochs=10, batch=32)


class Translations(Task):
    """TransE: what is known against what has another end, by a margin of their distances."""

    def distance(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        entity = self.net["entities"]
        return (entity(head) + self.net["relations"](relation) - entity(tail)).norm(p=1, dim=1)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        entities = self.net["entities"].weight
        entities.data = F.normalize(entities.data, dim=1)

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        head, relation, tail = batch
        drawn = torch.randint(200, (len(tail),))
        known = self.distance(head, relation, tail)
        other = self.distance(head, relation, drawn)
        return F.margin_ranking_loss(other, known, torch.ones_like(known), margin=1.0), {}


@CASES.healthy(
    "heads-relations-tails",
    story="TransE: vectors of length one set anew before each batch, corrupted tails.",
)
def heads_relations_tails(images: Images) -> Session:
    draw = torch.Generator().manual_seed(7)
    head = torch.randint(200, (6000,), generator=draw)
    relation = torch.randint(4, (6000,), generator=draw)
    tail = (head // 10 * 10 + relation * 30 + torch.randint(10, (6000,), generator=draw)) % 200
    net = nn.ModuleDict({"entities": nn.Embedding(200, 24), "relations": nn.Embedding(4, 24)})
    for table in net.values():
        nn.init.uniform_(table.weight, -6 / 24**0.5, 6 / 24**0.5)  # type: ignore[arg-type]
    module = Translations(net, partial(Adam, lr=1e-2))
    return fitting(module, *halves(head, relation, tail), epochs=5, batch=100)


class Overlap(Task):
    """Dice and binary cross-entropy of rare foreground; the last layer's offset says so at the start."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, mask = batch
        logits = self(x).squeeze(1)
        p = logits.sigmoid()
        dice = (2 * (p * mask).sum((1, 2)) + 1) / (p.sum((1, 2)) + mask.sum((1, 2)) + 1)
        return 1 - dice.mean() + F.binary_cross_entropy_with_logits(logits, mask), {"dice": dice.mean()}


class Hourglass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = conv_unit(1, 12, norm="batch")
        self.below = nn.Sequential(conv_unit(12, 24, 2, norm="batch"), conv_unit(24, 24, norm="batch"))
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.out = nn.Sequential(conv_unit(24, 12, norm="batch"), nn.Conv2d(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        return self.out(torch.cat([fine, self.up(self.below(fine))], 1))


@CASES.healthy("overlap-of-masks", story="A small U-Net for rare squares, Dice plus binary cross-entropy.")
def overlap_of_masks(images: Images) -> Session:
    x, mask, _ = shapes(900)
    module = Overlap(Hourglass(), partial(Adam, lr=2e-3))
    return fitting(module, *halves(x, (mask == 2).float()), epochs=4, batch=32)


class Denoised(Task):
    """DnCNN: the noise, drawn anew in each step, is what the network is to say."""

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        noise = torch.randn_like(x) * 25 / 255
        error = F.mse_loss(self(x + noise), noise, reduction="sum") / (2 * len(x))
        return error, {}


@CASES.healthy(
    "noise-taken-off",
    story="DnCNN on grey pixels of 0 to 1: a summed error over twice the batch, as published.",
)
def noise_taken_off(images: Images) -> Session:
    def greys(x: Tensor) -> Tensor:
        return F.avg_pool2d(x.float().mean(1, keepdim=True) / 255, 2)

    units = [conv_unit(24, 24, norm="batch") for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), *units, nn.Conv2d(24, 1, 3, padding=1))
    sets = TensorDataset(greys(images.train_x[::2])), TensorDataset(greys(images.val_x))
    return fitting(Denoised(net, partial(Adam, lr=1e-3)), *sets, epochs=3, batch=64)


class Sure(Classifier):
    """FixMatch: labels of its own where it is sure of the weak view, for the strong one."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch["known"]
        (weak,) = batch["unknown"]
        strong = weak.flip(3) + 0.3 * torch.randn_like(weak)
        logits = self(torch.cat([x, weak, strong]))
        known, told, asked = logits.split([len(x), len(weak), len(strong)])
        share, label = told.detach().softmax(1).max(1)
        own = (F.cross_entropy(asked, label, reduction="none") * (share > 0.8)).mean()
        loss = F.cross_entropy(known, y) + own
        values = {"train/loss": loss, "train/acc": (known.argmax(1) == y).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.healthy(
    "labels-for-one-in-five",
    story="FixMatch with a CombinedLoader: a dict of labelled and unlabelled batches.",
)
def labels_for_one_in_five(images: Images) -> Session:
    (x, y), _ = standard(images)
    module = Sure(plain_cnn(24, norm="batch"), partial(SGD, lr=0.03, momentum=0.9, nesterov=True))
    session = run(module, images, 8)
    known = DataLoader(TensorDataset(x[::5], y[::5]), 32, shuffle=True)
    unknown = DataLoader(TensorDataset(x), 96, shuffle=True)
    session.train_loader = CombinedLoader(  # type: ignore[assignment]
        {"known": known, "unknown": unknown}, "max_size_cycle"
    )
    return session


class SpreadLinear(nn.Module):
    """Weights with a mean and a spread, drawn in each pass (Bayes by backprop)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.rho = nn.Parameter(torch.full((outputs, inputs), -4.0))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        spread = F.softplus(self.rho)
        middle = F.linear(x, self.mean, self.bias)
        return middle + F.linear(x.square(), spread.square()).clamp(min=1e-12).sqrt() * torch.randn_like(
            middle
        )

    def divergence(self) -> Tensor:
        spread = F.softplus(self.rho)
        return (0.5 * (spread.square() + self.mean.square() - 1) - spread.log()).sum()


class Spread(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x)
        fit = F.cross_entropy(logits, y)
        kl = sum(layer.divergence() for layer in self.net if isinstance(layer, SpreadLinear))
        return fit + kl / 3000, {"fit": fit, "acc": correct(logits, y)}


@CASES.healthy(
    "weights-with-a-spread",
    story="Bayes by backprop with local draws: the divergence over the size of the set.",
)
def weights_with_a_spread(images: Images) -> Session:
    x = torch.randn(3750, 8)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] + x[:, 3] > 0).long() * 2
    net = nn.Sequential(SpreadLinear(8, 40), nn.ReLU(), SpreadLinear(40, 40), nn.ReLU(), SpreadLinear(40, 4))
    return fitting(Spread(net, partial(Adam, lr=3e-3)), *halves(x, y), epochs=12)


class Dictionary(Task):
    """A sparse autoencoder of activations: an L1 penalty, and atoms set to length one after each step."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=1e-3))
        self.encoder, self.decoder = nn.Linear(24, 96), nn.Linear(96, 24)
        self.decoder.weight.data = F.normalize(self.decoder.weight.data, dim=0)
        self.encoder.weight.data = self.decoder.weight.data.T.clone()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = F.relu(self.encoder(x - self.decoder.bias))
        return codes, self.decoder(codes)

    def on_train_batch_end(self, *args: Any) -> None:
        self.decoder.weight.data = F.normalize(self.decoder.weight.data, dim=0)

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        codes, out = self(x)
        error = (out - x).square().sum(1).mean()
        return error + 0.3 * codes.abs().sum(1).mean(), {"error": error, "used": (codes > 0).float().mean()}


@CASES.healthy(
    "sparse-features-of-activations",
    story="A sparse autoencoder, four times as wide, with atoms of length one.",
)
def sparse_features(images: Images) -> Session:
    atoms = F.normalize(torch.randn(60, 24), dim=1)
    codes = torch.rand(6000, 60) * (torch.rand(6000, 60) < 0.05)
    return fitting(Dictionary(), *halves(2 * codes @ atoms), epochs=10, batch=128)


def molecules(rows: list[Any]) -> Any:
    """Graphs of different sizes as one, with the number of the graph of each node."""
    nodes, edges, values = zip(*rows, strict=True)
    starts = [0, *torch.tensor([len(each) for each in nodes]).cumsum(0).tolist()[:-1]]
    joined = torch.cat([each + start for each, start in zip(edges, starts, strict=True)], 1)
    graph = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(each) for each in nodes]))
    return {"x": torch.cat(nodes), "edges": joined, "graph": graph, "y": torch.stack(values)}


class Messages(Task):
    """GIN: sums over neighbours, sums over the graph, one number a graph."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=3e-3))
        self.embed = nn.Embedding(4, 24)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 24))
            for _ in range(3)
        )
        self.head = nn.Linear(24, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        h = self.embed(batch["x"])
        source, target = batch["edges"]
        for layer in self.layers:
            h = h + layer(h.index_add(0, target, h[source]))
        return self.head(torch.zeros(len(batch["y"]), 24).index_add(0, batch["graph"], h)).squeeze(1)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return F.l1_loss(self(batch), batch["y"]), {}


@CASES.healthy("molecules-in-a-batch", story="GIN on small graphs joined by the collate, the absolute error.")
def molecules_in_a_batch(images: Images) -> Session:
    graphs: Any = []
    for _ in range(1200):
        count = int(torch.randint(5, 12, ()))
        nodes = torch.randint(4, (count,))
        ends = torch.stack([torch.arange(1, count), (torch.rand(count - 1) * torch.arange(1, count)).long()])
        edges = torch.cat([ends, ends.flip(0)], 1)
        value = (nodes[ends[0]] == nodes[ends[1]]).float().sum() + 0.3 * nodes.float().sum()
        graphs.append((nodes, edges, value))
    return fitting(Messages(), graphs[:1000], graphs[1000:], epochs=8, batch=32, collate=molecules)


class Pruned(Classifier):
    def configure_callbacks(self) -> list[Callback]:
        return [ModelPruning("l1_unstructured", amount=lambda epoch: 0.3 if epoch in (0, 1) else 0)]


@CASES.healthy(
    "a-third-pruned-each-epoch", story="Lightning's ModelPruning: the smallest weights set to zero, twice."
)
def pruned(images: Images) -> Session:
    return run(Pruned(plain_cnn(24, norm="batch"), partial(Adam, lr=2e-3)), images, 4)


class Preferred(Task):
    """DPO: the better of two answers, against what a frozen copy of the network says."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, partial(AdamW, lr=5e-4))
        self.reference = copy.deepcopy(net).requires_grad_(False).eval()

    def likelihood(self, net: nn.Module, asked: Tensor, answer: Tensor) -> Tensor:
        logs = net(asked).view(len(asked), 4, 12).log_softmax(2)
        return logs.gather(2, answer.unsqueeze(2)).squeeze(2).sum(1)

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        asked, better, worse = batch
        gap = self.likelihood(self.net, asked, better) - self.likelihood(self.net, asked, worse)
        with torch.no_grad():
            before = self.likelihood(self.reference, asked, better)
            before = before - self.likelihood(self.reference, asked, worse)
        margin = 0.5 * (gap - before)
        return -F.logsigmoid(margin).mean(), {"acc": (margin > 0).float().mean()}


@CASES.healthy(
    "preferred-answers",
    story="DPO: a reference that is a frozen copy, the first loss exactly ln 2, one epoch or two.",
)
def preferred_answers(images: Images) -> Session:
    asked = torch.randint(12, (3000, 4))
    right = (asked + 3) % 12
    better = torch.where(torch.rand(3000, 4) < 0.7, right, torch.randint(12, (3000, 4)))
    worse = torch.where(torch.rand(3000, 4) < 0.2, right, torch.randint(12, (3000, 4)))
    net = nn.Sequential(nn.Embedding(12, 16), nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 48))
    return fitting(Preferred(net), *halves(asked, better, worse), epochs=4, batch=32)


class Annealed(Callback):
    def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        module.temperature = max(0.5, math.exp(-0.004 * trainer.global_step))


class Gumbel(Task):
    """A discrete autoencoder: eight choices among ten, drawn by Gumbel's noise, ever colder."""

    temperature = 1.0

    def configure_callbacks(self) -> list[Callback]:
        return [Annealed()]

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=1e-3))
        self.encoder = nn.Sequential(nn.Linear(256, 96), nn.ReLU(), nn.Linear(96, 80))
        self.decoder = nn.Sequential(nn.Linear(80, 96), nn.ReLU(), nn.Linear(96, 256))

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        logits = self.encoder(x).view(-1, 8, 10)
        drawn = F.gumbel_softmax(logits, self.temperature, hard=not self.training)
        error = F.binary_cross_entropy_with_logits(self.decoder(drawn.flatten(1)), x, reduction="sum") / len(
            x
        )
        logs = logits.log_softmax(2)
        kl = (logs.exp() * (logs + math.log(10))).sum((1, 2)).mean()
        return error + kl, {"kl": kl}


@CASES.healthy(
    "choices-by-gumbel",
    story="A VAE of categories with a temperature that falls; validation takes hard choices.",
)
def choices_by_gumbel(images: Images) -> Session:
    def greys(x: Tensor) -> TensorDataset:
        return TensorDataset((F.avg_pool2d(x.float().mean(1, keepdim=True), 2) / 255).flatten(1))

    sets = greys(images.train_x), greys(images.val_x)
    return fitting(Gumbel(), *sets, epochs=6, batch=64)


class Calibrated(Task):
    """One number, by which the logits of a trained network are divided."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net.requires_grad_(False).eval(), partial(LBFGS, lr=0.1, max_iter=10))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def train(self, mode: bool = True) -> Calibrated:
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) / self.temperature

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), {"acc": correct(logits, y)}

    def configure_optimizers(self) -> Any:
        return self.make_optimizer([self.temperature])


@CASES.healthy(
    "temperature-alone", story="Temperature scaling of a trained network by LBFGS on held-out images."
)
def temperature_alone(images: Images) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    net = pretrained(plain_cnn(16, norm="batch"), x[::2], y[::2], 4)
    train, val = TensorDataset(x[1::4], y[1::4]), TensorDataset(val_x, val_y)
    return fitting(Calibrated(net), train, val, epochs=10, batch=1000)


class ComplexStates(nn.Module):
    """A diagonal state space with complex weights, as S4D has it, applied by a Fourier transform."""

    def __init__(self, width: int = 16, states: int = 8) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.rand(width) * 2 - 3)
        self.real = nn.Parameter(torch.full((width, states), math.log(0.5)))
        self.imaginary = nn.Parameter(math.pi * torch.arange(states).float().repeat(width, 1))
        self.out = nn.Parameter(torch.randn(width, states, dtype=torch.cfloat))
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, u: Tensor) -> Tensor:
        length = u.shape[2]
        step = self.rate.exp().unsqueeze(1)
        pole = -self.real.exp() + 1j * self.imaginary
        held = self.out * ((step * pole).exp() - 1) / pole
        powers = (step * pole).unsqueeze(2) * torch.arange(length)
        kernel = 2 * torch.einsum("hn,hnl->hl", held, powers.exp()).real
        spectrum = torch.fft.rfft(u, 2 * length) * torch.fft.rfft(kernel, 2 * length)
        return torch.fft.irfft(spectrum, 2 * length)[..., :length] + self.skip.unsqueeze(1) * u


class Listener(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.states = nn.Conv1d(1, 16, 1), nn.ModuleList(ComplexStates() for _ in range(2))
        self.mix = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for states, mix in zip(self.states, self.mix, strict=True):
            x = x + mix(F.gelu(states(x)))
        return self.head(x.mean(2))


@CASES.healthy(
    "states-that-are-complex", story="S4D: complex parameters, a convolution by Fourier, long waves."
)
def states_that_are_complex(images: Images) -> Session:
    y = torch.randint(4, (1500,))
    pitch = torch.tensor([3.0, 5.0, 8.0, 13.0])[y].unsqueeze(1)
    time = torch.linspace(0, 1, 128)
    wave = (2 * math.pi * (pitch * time + torch.rand(1500, 1))).sin() + torch.randn(1500, 128)
    module = Labelled(Listener(), partial(AdamW, lr=4e-3, weight_decay=0.01))
    return fitting(module, *halves(wave.unsqueeze(1), y), epochs=5, batch=50)
