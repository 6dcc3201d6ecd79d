"""What people's trainings have beside a network and a loss, and what is said of it."""

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, TwoOptimizers, alarms, digits, fit, mlp, quick
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchvision.ops import MLP

from vitals.diagnosis.callback import Diagnosis
from vitals.findings import Finding, read_findings
from vitals.monitors.first_layer_filters import FirstLayerFilters
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.loss_parameters import LossParameters
from vitals.monitors.modes import Modes
from vitals.monitors.non_finite import NonFinite
from vitals.monitors.stale_gradients import StaleGradients
from vitals.monitors.update_ratio import UpdateRatio
from vitals.probes.rate_probe import answers_move
from vitals.recorder import Recorder


def test_monitors_measure_the_training_that_follows_a_search_for_a_rate(tmp_path: Path) -> None:
    ratios, recorder = UpdateRatio(every_n_steps=1), Recorder()
    finder = LearningRateFinder(num_training_steps=8)
    trained = fit(Foreign(mlp()), tmp_path, finder, ratios, recorder, max_epochs=3, limit_val_batches=0)
    # Lightning 2.4 counts the epochs of the search among those of the training.
    steps = recorder.history.series("update_ratio_summary/median").steps
    assert 0 < trained.global_step == len(steps)


class HeldBack(Foreign):
    """A backbone frozen as it was drawn, which is a fault unless it is kept in evaluation mode."""

    def __init__(self, kept: bool) -> None:
        super().__init__(nn.Linear(16, 10))
        self.kept = kept
        layers = [nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)]
        self.backbone = nn.Sequential(nn.Flatten(), *layers).requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        if self.kept:
            self.backbone.eval()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(self.backbone(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None


@pytest.mark.parametrize("kept", [True, False])
def test_layers_frozen_as_they_were_drawn_are_meant_to_be_in_evaluation_mode(
    kept: bool, tmp_path: Path
) -> None:
    watching = (quick(checks=["wiring"]), Modes(), Recorder(), Diagnosis(report=False))
    fit(HeldBack(kept), tmp_path, *watching, max_epochs=1)
    [file] = tmp_path.rglob("findings.json")
    assert alarms(read_findings(file)) == ([] if kept else ["frozen-parameters"])


class TiedLetters(Foreign):
    """The weights of the last layer are those of the embedding, drawn as torch draws embeddings."""

    def __init__(self, tied: bool) -> None:
        torch.manual_seed(0)
        layers = [nn.Embedding(8, 32), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 8, bias=False)]
        super().__init__(nn.Sequential(*layers))
        self.net[3].weight = self.net[0].weight if tied else nn.Parameter(torch.randn(8, 32))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        [ids] = batch
        return F.cross_entropy(self.net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.mark.parametrize(("tied", "expected"), [(True, []), (False, ["wrong-initial-loss"])])
def test_weights_tied_to_an_embedding_may_begin_loud(tied: bool, expected: list[str], tmp_path: Path) -> None:
    checks = quick(checks=["loss_at_chance"])
    data = [((torch.arange(6) + start) % 8,) for start in range(128)]
    fit(TiedLetters(tied), tmp_path, checks, train=DataLoader(data, 32, shuffle=True), limit_val_batches=0)
    assert alarms(checks.findings) == expected


class WithLoss(nn.Module):
    """Gives its loss beside its outputs, in a table of its own, as pretrained language models do."""

    class Output(dict[str, Any]):
        def update(self, *entries: Any, **further: Any) -> None:
            raise TypeError("You cannot use ``update``.")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inner = nn.Embedding(17, 16, padding_idx=16), nn.Linear(16, 32)
        self.classifier = nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        words = self.inner(self.embed(input_ids)).relu() * attention_mask[..., None]
        logits = self.classifier(words.sum(1) / attention_mask.sum(1, keepdim=True))
        if labels is None:
            return self.Output(logits=logits, words=words)
        return self.Output(loss=F.cross_entropy(logits, labels), logits=logits)


class ByKeywords(Foreign):
    def __init__(self) -> None:
        super().__init__(WithLoss())

    def forward(self, **batch: Tensor) -> Any:
        return self.net(**batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(**batch)["loss"]

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class ByLogits(ByKeywords):
    """Takes its logits from the table."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return F.cross_entropy(outputs["logits"], batch["labels"])


def padded(samples: Sequence[Any]) -> dict[str, Tensor]:
    """A batch as long as the longest of its texts."""
    ids = [sample["input_ids"][sample["attention_mask"].bool()] for sample in samples]
    words = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=16)
    labels = torch.stack([sample["labels"] for sample in samples])
    return {"input_ids": words, "attention_mask": (words != 16).long(), "labels": labels}


@pytest.mark.parametrize(("made", "collate"), [(ByKeywords, None), (ByKeywords, padded), (ByLogits, None)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_random_labels_are_found_in_batches_of_keywords(
    shuffled: bool, made: Any, collate: Any, tmp_path: Path
) -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (512,), generator=random)
    ids = torch.randint(0, 4, (512, 8), generator=random) + 4 * labels[:, None]
    labels = labels[torch.randperm(512, generator=random)] if shuffled else labels
    masks = torch.arange(8) < torch.randint(2, 9, (512, 1), generator=random)
    data = [
        {"input_ids": words, "attention_mask": mask.long(), "labels": label}
        for words, mask, label in zip(ids, masks, labels, strict=True)
    ]
    checks = quick(checks=["informative_inputs"], samples=512)
    loader = DataLoader(data, 8 if collate else 32, shuffle=True, collate_fn=collate)
    fit(made(), tmp_path, checks, train=loader, limit_val_batches=0)
    assert alarms(checks.findings) == (["labels-random"] if shuffled else [])
    assert not any(finding.cause == "skipped" for finding in checks.findings)


class FirstLayer(Foreign):
    """Takes the first layer of a network alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        torch.manual_seed(0)
        self.head = nn.Linear(32, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.head(self.net[0](batch[0].flatten(1)).relu()), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@pytest.mark.parametrize(
    ("net", "causes"),
    [
        (lambda: MLP(64, [32, 32, 10]), []),
        (lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32)), ["frozen-parameters"]),
    ],
)
def test_what_is_not_used_of_a_librarys_network_is_no_forgotten_layer(
    net: Any, causes: list[str], tmp_path: Path
) -> None:
    checks = quick(checks=["wiring"])
    fit(
        FirstLayer(net()),
        tmp_path,
        checks,
        UpdateRatio(every_n_steps=1),
        Diagnosis(probe=False),
        max_epochs=2,
    )
    found = [each for each in read_findings(next(tmp_path.rglob("findings.json"))) if each.alarming]
    assert [(each.cause, each.level) for each in found] == [(cause, "warn") for cause in causes]


class OfWhatIsKnown(nn.Module):
    """A forecast that takes what does not change in time, too, and zeros where there is none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.branch = mlp(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10))

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.net(x)
        return outputs + self.branch(x.new_zeros(len(x), 4) if known is None else known)


# No installed network that does so is at hand, and what tells a library's class is where it says it is from.
OfALibrary = type("OfALibrary", (OfWhatIsKnown,), {"__module__": "torchvision.ops.misc"})


class WithoutDecay(Foreign):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@pytest.mark.parametrize(("net", "levels"), [(OfALibrary, []), (OfWhatIsKnown, ["warn"])])
def test_layers_that_are_given_none_of_some_data_are_known_to_a_library(
    net: Any, levels: list[str], tmp_path: Path
) -> None:
    checks = quick(checks=["wiring"])
    watch = (checks, UpdateRatio(every_n_steps=1), Diagnosis(probe=False))
    fit(WithoutDecay(net()), tmp_path, *watch, max_epochs=2)
    found = [each for each in read_findings(next(tmp_path.rglob("findings.json"))) if each.alarming]
    assert [(each.cause, each.level) for each in found] == [("frozen-parameters", level) for level in levels]
    said = [each.message for each in checks.findings if "branch.0.weight'" in each.message]
    assert [each[:11] for each in said] == ["What enters"]


class TwoByHand(Foreign):
    """Two optimizers, of which the first may be forgotten."""

    def __init__(self, forgotten: bool) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False
        self.forgotten = forgotten

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        if not self.forgotten:
            first.step()
        second.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.net[place].parameters(), 1e-3) for place in (1, 3)]


@pytest.mark.parametrize("forgotten", [True, False])
def test_an_optimizer_that_never_steps_is_named(forgotten: bool, tmp_path: Path) -> None:
    monitor = LossParameters()
    fit(TwoByHand(forgotten), tmp_path, monitor, max_epochs=8, limit_val_batches=0)
    assert [finding.where for finding in monitor.findings] == (["net.1.weight"] if forgotten else [])


class Cleared(TwoByHand):
    """Two optimizers whose gradients are taken away, set to zero, or left."""

    def __init__(self, clear: Callable[[Any], object]) -> None:
        super().__init__(False)
        self.clear = clear

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            self.clear(optimizer)
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()


@pytest.mark.parametrize(
    ("clear", "said"),
    [
        (lambda optimizer: optimizer.zero_grad(), False),
        (lambda optimizer: optimizer.zero_grad(set_to_none=False), False),
        (lambda optimizer: None, True),
    ],
    ids=["taken away", "zeros", "left"],
)
def test_gradients_that_mount_under_several_optimizers_are_named(
    clear: Any, said: bool, tmp_path: Path
) -> None:
    monitor = StaleGradients()
    fit(Cleared(clear), tmp_path, monitor, max_epochs=8, limit_val_batches=0)
    assert [finding.cause for finding in monitor.findings] == ["gradients-accumulate"] * 2 * said


class Toggled(TwoByHand):
    """Freezes, for the time of each optimizer's pass, what the other one has, as Lightning's GANs do."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)


def test_optimizers_that_are_toggled_are_looked_at(tmp_path: Path) -> None:
    monitor = LossParameters()
    fit(Toggled(forgotten=False), tmp_path, monitor, limit_val_batches=0)
    assert monitor.findings == []


class OfACritic(Foreign):
    """A generator that learns by each fifth batch, from a critic that learns by all."""

    def __init__(self, cut: bool) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 64))
        self.cut = cut

    def made(self, count: int) -> Tensor:
        first = self.generator[:2](torch.randn(count, 4))
        return self.generator[2](first.detach() if self.cut else first)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        images, count = batch[0].flatten(1), len(batch[0])
        for number, optimizer in enumerate(self.optimizers()):
            if number and (batch_idx + 1) % 5:
                return
            made = self.made(count)
            loss = (
                -self.net(made).mean() if number else self.net(made.detach()).mean() - self.net(images).mean()
            )
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), 1e-3) for part in (self.net, self.generator)]


@pytest.mark.parametrize("cut", [False, True])
def test_a_generator_that_learns_by_each_fifth_batch_is_wired(cut: bool, tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    fit(OfACritic(cut), tmp_path, checks, limit_val_batches=0)
    said = [finding.message.partition(":")[0] for finding in checks.findings if finding.alarming]
    assert said == ["2 parameter(s) change the outputs, but no gradient gets to them"] * cut


class OneOfTwoFrozen(TwoOptimizers):
    """Most of the second network is frozen as it was drawn."""

    def __init__(self, frozen: int) -> None:
        super().__init__()
        layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
        self.other = nn.Sequential(nn.Flatten(), *layers)
        self.other[:frozen].requires_grad_(False)


@pytest.mark.parametrize(("frozen", "said"), [(0, []), (2, []), (4, ["frozen-parameters"])])
def test_layers_frozen_in_one_of_two_networks_are_named(frozen: int, said: list[str], tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    fit(OneOfTwoFrozen(frozen), tmp_path, checks, limit_val_batches=0)
    assert alarms(checks.findings) == said


class Turned(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return -F.mse_loss(self.net(batch[0]), F.one_hot(batch[1], 10).float())


def test_a_minus_before_an_error_is_told_once(tmp_path: Path) -> None:
    checks = quick(checks=["wiring", "step_size"])
    fit(Turned(mlp()), tmp_path, checks, limit_val_batches=0)
    assert [(each.cause, each.check) for each in checks.findings if each.alarming] == [
        ("wrong-initial-loss", "wiring")
    ]


class TargetNetworks(TwoOptimizers):
    """The second network learns from slow copies of both, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 10))
        self.targets = copy.deepcopy(nn.Sequential(self.net, self.other)).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        losses = (
            lambda: F.cross_entropy(self.net(batch[0]), batch[1]),
            lambda: F.mse_loss(self.other(self.net(batch[0]).detach()), 1 + self.targets(batch[0])),
        )
        for optimizer, loss in zip((first, second), losses, strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()


def test_target_networks_of_several_losses_are_meant_to_be_frozen(tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    fit(TargetNetworks(), tmp_path, checks, limit_val_batches=0)
    assert alarms(checks.findings) == []


class CopiesItsWeights(Foreign):
    """Takes its targets from a slow copy, to which it gives its weights every so many steps, within the
    step."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.slow = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.mse_loss(self.net(batch[0]), 1 + self.slow(batch[0]))
        if batch_idx % 4 == 0:
            self.slow.load_state_dict(self.net.state_dict())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=self.lr)


class KeepsAQueue(CopiesItsWeights):
    """Moves its slow copy, which the optimizer has as all else, and compares with what that gave before."""

    def __init__(self, copies: bool) -> None:
        super().__init__()
        self.copies = copies
        self.register_buffer("queue", torch.zeros(32, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.copies:
            loss = F.mse_loss(self.net(batch[0]), 1 + self.slow(batch[0]))
            self.slow.load_state_dict(self.net.state_dict())
            return loss
        loss = F.mse_loss(self.net(batch[0]), 1 + self.queue)
        self.queue.copy_(self.net(batch[0]).detach())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class AsksWhetherAnswersMove(L.Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = copy.deepcopy(pl_module.state_dict())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        end = copy.deepcopy(pl_module.state_dict())
        self.move = answers_move(trainer, pl_module, self.start)
        assert all(torch.equal(end[name], each) for name, each in pl_module.state_dict().items())


@pytest.mark.parametrize(
    ("make", "move"),
    [
        (CopiesItsWeights, True),
        (lambda: KeepsAQueue(copies=True), True),
        (lambda: KeepsAQueue(copies=False), True),
        (lambda: Foreign(mlp(norm=True)), False),
    ],
    ids=["a copy", "a copy that the optimizer has", "a queue", "statistics"],
)
def test_what_no_optimizer_moves_may_change_what_a_loss_asks_for(
    make: Any, move: bool, tmp_path: Path
) -> None:
    asks = AsksWhetherAnswersMove()
    fit(make(), tmp_path, asks, limit_val_batches=0)
    assert asks.move == move


class Listed(Foreign):
    """Has its layers in a list, reads the batch's labels and its outputs as one row each."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.layers = nn.ModuleList(self.net)
        del self.net

    def outputs(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = layer(images)
        return images

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.outputs(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.outputs(batch[0])


def test_the_mode_of_layers_in_a_list_is_seen_in_validation(tmp_path: Path) -> None:
    checks = quick(checks=["validation_mode"])
    fit(Listed(), tmp_path, checks)
    assert [row.verdict for row in checks.rows] == ["ok"]


class MasksAtRandom(FirstLayer):
    """Puts a vector that begins at zero into places that are drawn, as masked autoencoders do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.token = nn.Parameter(torch.zeros(64))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs = batch[0].flatten(1)
        return super().training_step(
            (torch.where(torch.rand_like(inputs) > 0.5, inputs, self.token), batch[1]), 0
        )


def test_what_is_drawn_anew_does_not_change_with_weights_that_are_not_used(tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    fit(MasksAtRandom(MLP(64, [32, 32, 10])), tmp_path, checks, limit_val_batches=0)
    assert alarms(checks.findings) == []


class Flat(Foreign):
    """Flattens outputs with `view`, as language models do."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        tokens = (batch[0].flatten(1) * 4 + 4).long().clamp(0, 16)
        logits = self.net(tokens[:, :-1])
        return F.cross_entropy(logits.view(-1, 17), tokens[:, 1:].reshape(-1))


def test_outputs_that_are_made_up_can_be_viewed_as_the_networks_own(tmp_path: Path) -> None:
    checks = quick(checks=["tiny_subset"], tiny_subset_steps=20)
    net = nn.Sequential(nn.Embedding(17, 16), nn.Linear(16, 17))
    fit(Flat(net), tmp_path, checks, limit_val_batches=0)
    assert [row.verdict == "skipped" for row in checks.rows] == [False], checks.findings


class Sampling(Foreign):
    """Freezes its network while it samples, and thaws it after that."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.net.requires_grad_(False)
        samples = batch[0].clone().requires_grad_()
        with torch.enable_grad():
            self.net(samples).sum().backward()
        self.net.requires_grad_(True)
        return F.cross_entropy(self.net(samples.detach()), batch[1])


class Wants(L.Callback):
    """Keeps whether the parameters want a gradient when a batch begins."""

    def __init__(self) -> None:
        self.seen: set[bool] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: L.LightningModule, *_: Any) -> None:
        self.seen |= {parameter.requires_grad for parameter in pl_module.parameters()}


def test_a_step_that_is_broken_off_on_a_copy_freezes_nothing(tmp_path: Path) -> None:
    wants = Wants()
    fit(Sampling(mlp()), tmp_path, FirstLayerFilters(every_n_steps=1), wants, limit_val_batches=0)
    assert wants.seen == {True}


class Sharpness(torch.optim.Optimizer):
    """SAM: moves up the gradient that is there, asks for another one, and steps from where it was."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.05})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.05)

    @torch.no_grad()
    def first_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["old"] = parameter.clone()
            parameter.add_(0.01 * parameter.grad / parameter.grad.norm())
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["old"])
        self.inner.step()
        self.zero_grad()

    def step(self, closure: Any = None) -> Any:
        self.first_step()
        loss = torch.enable_grad()(closure)()
        self.second_step()
        return loss


class Sharp(Foreign):
    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        for step in (optimizer.first_step, optimizer.second_step):
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            step()

    def configure_optimizers(self) -> Any:
        return Sharpness(self.parameters())


def test_an_optimizer_that_steps_in_two_passes_is_looked_at(tmp_path: Path) -> None:
    checks = quick(checks=["wiring", "tiny_subset", "step_size"])
    fit(Sharp(), tmp_path, checks, limit_val_batches=0)
    assert {row.name: row.verdict for row in checks.rows if row.verdict != "ok"} == {}
    assert len(checks.rows) == 3


class InHalf(Foreign):
    def __init__(self, eps: float) -> None:
        super().__init__(mlp())
        self.eps = eps

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3, eps=self.eps)


@pytest.mark.parametrize(("eps", "expected"), [(1e-8, ["non-finite-loss"]), (1e-4, [])])
def test_an_epsilon_that_is_none_in_the_type_of_the_weights_is_the_remedy(
    eps: float, expected: list[str], tmp_path: Path
) -> None:
    checks, monitor = quick(checks=["tiny_subset"]), NonFinite(every_n_steps=1)
    fit(InHalf(eps), tmp_path, checks, monitor, precision="16-true", limit_val_batches=0)
    found = [each for each in (*checks.findings, *monitor.findings) if each.alarming]
    assert alarms(found) == expected
    assert all(each.remedy.startswith("Raise the optimizer's eps: 1e-08 is 0 in float16") for each in found)


def test_what_cannot_be_taken_apart_is_told_in_words_of_the_batch(tmp_path: Path) -> None:
    class Margin(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(*batch), batch[1])

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net(x) - F.one_hot(y, 10)

    checks = quick(checks=["inputs", "informative_inputs"])
    fit(Margin(mlp()), tmp_path, checks, limit_val_batches=0, limit_train_batches=1)
    assert "self(…) gets more of the batch than its inputs, such as labels" in checks.findings[0].message


def test_a_network_in_evaluation_mode_for_a_part_of_the_step_is_no_fault(tmp_path: Path) -> None:
    class Attacked(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            self.net.eval()
            pushed = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(self.net(pushed), y), pushed)
            self.net.train()
            return F.cross_entropy(self.net(x), y) + F.cross_entropy(self.net(x + 0.1 * slope.sign()), y)

    checks = quick(checks=["wiring"])
    fit(Attacked(mlp(norm=True)), tmp_path, checks, limit_val_batches=0, limit_train_batches=1)
    assert not [finding for finding in checks.findings if finding.alarming]


def test_a_network_that_is_called_again_and_again_is_named_once(tmp_path: Path) -> None:
    class Ensemble(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return F.cross_entropy(self.net(x), y) + F.mse_loss(self.net(x + 0.1), self.net(x - 0.1))

    checks = quick(checks=["inputs"])
    fit(Ensemble(mlp()), tmp_path, checks, limit_val_batches=0, limit_train_batches=1)
    assert "your training_step calls self.net(…) more than once; one" in checks.findings[0].message


class ByRewards(Foreign):
    """Makes the likelier what was done, as far as it turned out well: a policy gradient."""

    def __init__(self, offset: float) -> None:
        super().__init__(mlp())
        self.offset = offset

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        states, done, gains = batch
        loss = F.cross_entropy(self.net(states), done, reduction="none")
        return (loss * (gains + self.offset)).mean()


@pytest.mark.parametrize("offset", [0.0, -2.0], ids=["centred", "costs"])
def test_what_was_done_is_no_class(offset: float, tmp_path: Path) -> None:
    gains = torch.randn(256, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(*digits(), gains), batch_size=32, shuffle=True)
    checks = quick(checks=["loss_at_chance", "tiny_subset", "informative_inputs"])
    fit(ByRewards(offset), tmp_path, checks, train=data, limit_val_batches=0, limit_train_batches=1)
    assert alarms(checks.findings) == []


class OfRanks(Foreign):
    """Asks of each rank but the last whether a sample is above it."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        above = (batch[1][:, None] > torch.arange(9)).float()
        return F.binary_cross_entropy_with_logits(self.net(batch[0]), above)


def test_ranks_are_no_classes_though_none_of_a_batch_is_the_last(tmp_path: Path) -> None:
    images, numbers = digits()
    data = TensorDataset(images[:32], numbers[:32].clamp(max=8))
    checks = quick(checks=["wiring", "loss_at_chance"])
    fit(OfRanks(), tmp_path, checks, train=DataLoader(data, batch_size=32), limit_val_batches=0)
    [skipped] = [each.message for each in checks.findings if each.cause == "skipped"]
    assert skipped.startswith("Loss at chance: your loss takes no class number for each sample")


class Beside(Foreign):
    """Asks a teacher, too, behind its own network."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.teacher = mlp().requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        with torch.no_grad():
            sure = self.teacher(batch[0]).argmax(1)
        self.log("agreement", (sure == outputs.argmax(1)).float().mean())
        return F.cross_entropy(outputs, batch[1])


def test_a_teacher_that_is_called_last_hides_no_classes(tmp_path: Path) -> None:
    checks = quick(checks=["loss_at_chance"])
    fit(Beside(), tmp_path, checks, limit_val_batches=0, limit_train_batches=1)
    assert [each.cause for each in checks.findings] == ["loss-at-chance"]


class AsksForTheStage(Foreign):
    """Gives a loss in the stages that it knows of."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        known = self.trainer.state.stage in ("train", "validate")
        return {"loss": super().training_step(batch, batch_idx) if known else None}


class MixesInPlace(Foreign):
    """Adds other samples to the batch where it lies, as timm's Mixup does."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        x.mul_(0.9).add_(x.flip(0).mul_(0.1))
        logits = self.net(x)
        return 0.9 * F.cross_entropy(logits, y) + 0.1 * F.cross_entropy(logits, y.flip(0))


class Asking(nn.Module):
    """Is not made without its network, which `copy.deepcopy` does not know."""

    def __new__(cls, network: nn.Module) -> Any:
        return super().__new__(cls)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class HalvesInValidation(Foreign):
    """Validates the halves of each image, one after the other."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self.net(batch[0][:, :, :4]), batch[0][:, :, :4])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        outputs = self.net(torch.cat(batch[0].split(4, dim=2)))
        self.log("val_loss", F.mse_loss(torch.cat(outputs.chunk(2), dim=2), batch[0]))


class KeepsAnAverage(Foreign):
    """An average of the weights, in evaluation mode and in no optimizer, that wants gradients as they do."""

    def __init__(self) -> None:
        super().__init__(mlp(norm=True))
        self.average = AveragedModel(self.net)
        for parameter in self.average.parameters():
            parameter.requires_grad_(True)
        self.average.eval()

    def on_train_batch_end(self, *args: Any) -> None:
        self.average.update_parameters(self.net)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=self.lr)


def seen(module: Any, folder: Path) -> list[Finding]:
    watching = (quick(checks=["wiring", "tiny_subset"]), LearningCurves(), Modes(), Recorder())
    fit(module, folder, *watching, Diagnosis(report=False), max_epochs=2)
    [file] = folder.rglob("findings.json")
    return read_findings(file)


@pytest.mark.parametrize(
    "module",
    [
        lambda: AsksForTheStage(mlp()),
        lambda: MixesInPlace(mlp()),
        lambda: Foreign(Asking(mlp())),
        lambda: HalvesInValidation(nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))),
        KeepsAnAverage,
        lambda: GathersFromAll(mlp()),
    ],
    ids=["the stage", "mixes in place", "asks to be made", "halves", "an average", "of all processes"],
)
def test_what_people_write_is_looked_at_and_not_blamed(module: Any, tmp_path: Path) -> None:
    found = seen(module(), tmp_path)
    assert alarms(found) == []
    assert not [each.message for each in found if each.cause == "skipped" and each.where != "checks"]


class GathersFromAll(Foreign):
    """Contrasts its batch with those of all processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        assert self.all_gather(y).shape == (len(y) * self.trainer.num_devices,)
        return F.cross_entropy(self.all_gather(self.net(x), sync_grads=True), y)


class InEvaluationMode(Foreign):
    """Its metrics are in a mode of their own."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.metrics = MetricCollection({"accuracy": MulticlassAccuracy(10)})

    def on_train_epoch_start(self) -> None:
        self.net.eval()


def test_metrics_do_not_hide_that_the_network_trains_in_evaluation_mode(tmp_path: Path) -> None:
    assert "eval-mode-training" in alarms(seen(InEvaluationMode(), tmp_path))


class WithoutOptimizer(Foreign):
    """Clears the gradients, asks for new ones, and moves the weights along them itself."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter -= 0.1 * parameter.grad

    def configure_optimizers(self) -> None:
        return None


def test_weights_that_a_step_moves_itself_are_wired(tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    fit(WithoutOptimizer(), tmp_path, checks)
    assert [row.outcome and row.outcome.seen for row in checks.rows] == ["4 of 4 parameters learn"]
    assert alarms(checks.findings) == []


class GivesAMap(nn.Module):
    """Frozen features at fresh weights, and two things to train with, but one where it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.features = mlp().requires_grad_(False)
        self.head = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Any:
        outputs = self.head(self.features(x))
        return (outputs, outputs.exp()) if self.training else outputs.exp()


class OfAMap(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs, _ = self.net(batch[0])
        return F.cross_entropy(outputs, batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])


def test_a_network_that_gives_something_else_in_evaluation_is_wired(tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    fit(OfAMap(GivesAMap()), tmp_path, checks)
    assert [row.outcome and row.outcome.seen for row in checks.rows] == ["2 of 2 parameters learn"]
    assert alarms(checks.findings) == ["frozen-parameters"]


class Adapts(Foreign):
    """Learns how to start: a copy made for the batch takes a step of its own, and has the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        learner = copy.deepcopy(self.net)
        slopes = torch.autograd.grad(F.cross_entropy(learner(x), y), list(learner.parameters()))
        named = zip(self.net.named_parameters(), slopes, strict=True)
        moved = {name: part - 0.1 * slope for (name, part), slope in named}
        return F.cross_entropy(torch.func.functional_call(self.net, moved, (x,)), y)


def test_a_network_that_the_step_makes_is_named_by_its_kind(tmp_path: Path) -> None:
    checks = quick(checks=["inputs", "regularization"])
    fit(Adapts(mlp()), tmp_path, checks, limit_val_batches=0, limit_train_batches=1)
    assert "your training_step calls Sequential(…), self.net(…)" in checks.findings[0].message


class DrawsAtTheStart(Foreign):
    """Draws its weights when the training starts, in place of those it was made with."""

    def __init__(self, itself: bool) -> None:
        super().__init__(mlp())
        self.itself = itself
        nn.init.normal_(self.net[-1].weight, std=5)
        if itself:
            self.on_train_start = lambda: nn.init.xavier_normal_(self.net[-1].weight)


@pytest.mark.parametrize(("itself", "expected"), [(True, []), (False, ["wrong-initial-loss"])])
def test_weights_drawn_when_the_training_starts_are_those_looked_at(
    itself: bool, expected: list[str], tmp_path: Path
) -> None:
    checks = quick(checks=["loss_at_chance"])
    fit(DrawsAtTheStart(itself), tmp_path, checks, limit_val_batches=0, limit_train_batches=1)
    assert alarms(checks.findings) == expected


class ByItself(torch.optim.Optimizer):
    """Doubles its step until it is as long as the one that it was made for, as those that find a rate do."""

    def __init__(self, parameters: Any, grows: float) -> None:
        super().__init__(parameters, {"lr": 1.0, "grows": grows})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            group["rate"] = min(group.get("rate", 1e-5) * group["grows"], 0.05)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * group["rate"] * parameter.grad)
        return loss


class Around(torch.optim.Optimizer):
    """Around another optimizer, which it asks for the groups, as Lookahead."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.state, self.defaults = inner, defaultdict(dict), {}
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


class Steady(torch.optim.SGD):
    """Keeps a number of its own outside of its groups."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr)
        self.kept = 1.0

    def step(self, closure: Any = None) -> Any:
        assert self.kept == 1.0
        return super().step(closure)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: ByItself(p, 2.0), []),
        (lambda p: ByItself(p, 1.0), ["learning-rate-too-low"]),
        (lambda p: Around(Steady(p, 0.05)), []),
        (lambda p: None, []),
    ],
    ids=["finds its rate", "keeps a low one", "around another", "none: the script steps by itself"],
)
def test_optimizers_of_any_make_are_looked_at(make: Any, expected: list[str], tmp_path: Path) -> None:
    class Trained(Foreign):
        def configure_optimizers(self) -> Any:
            return make(self.parameters())

    checks = quick(checks=["wiring", "tiny_subset", "step_size"], tiny_subset_steps=100)
    fit(Trained(mlp()), tmp_path, checks, limit_val_batches=0, max_epochs=30)
    assert alarms(checks.findings) == expected
    skipped = [each.message for each in checks.findings if each.cause == "skipped"]
    assert skipped == ["Step size: your configure_optimizers gives no optimizer with a parameter."] * (
        make(mlp().parameters()) is None
    )


class Letters(Foreign):
    """A language model as transformers has it: it takes labels, shifts them, and gives its loss in a table
    beside its logits, which a head makes of what a trunk gives."""

    def __init__(self) -> None:
        super().__init__(mlp())
        trunk = nn.Sequential(nn.Embedding(17, 16), nn.GELU())
        self.net = nn.ModuleDict({"trunk": trunk, "head": nn.Linear(16, 17)})

    def forward(self, tokens: Tensor, labels: Tensor) -> dict[str, Any]:
        hidden = self.net["trunk"](tokens)
        logits = self.net["head"](hidden)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits, "hidden_states": (hidden,)}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(*batch)["loss"]


def test_the_logits_of_a_language_model_are_found_beside_its_loss(tmp_path: Path) -> None:
    checks = quick(checks=["outputs", "loss_at_chance"])
    letters = (digits()[0].flatten(1) * 4 + 4).long().clamp(0, 16)
    data = DataLoader(TensorDataset(letters, letters), 32, shuffle=True)
    fit(Letters(), tmp_path, checks, train=data, limit_val_batches=0)
    assert {row.name: row.verdict for row in checks.rows} == {"outputs": "ok", "loss_at_chance": "ok"}


def test_two_networks_whose_outputs_are_compared_are_not_taken_for_one(tmp_path: Path) -> None:
    class Pairs(Foreign):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.other = mlp()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen, beside = (F.normalize(each) for each in (self.net(batch[0]), self.other(batch[0].flip(3))))
            return F.cross_entropy(10 * seen @ beside.T, torch.arange(len(seen)))

    checks = quick(checks=["outputs", "tiny_subset"], tiny_subset_steps=100)
    fit(Pairs(), tmp_path, checks, limit_val_batches=0)
    assert {row.name: row.verdict for row in checks.rows} == {"tiny_subset": "ok"}


def test_what_is_not_made_for_float64_is_told_so(tmp_path: Path) -> None:
    class Single(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch[0].dtype == torch.float64:
                raise RuntimeError("Expected bf16, fp32 or fp16")
            return F.cross_entropy(self.net(batch[0]), batch[1])

    checks = quick(checks=["gradients"])
    fit(Single(mlp()), tmp_path, checks, limit_val_batches=0)
    [finding] = checks.findings
    assert finding.message.startswith("Gradients: in float64, in which gradients are compared, your training")
