"""Real inputs teach more than zeros, and what they teach holds for others."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_networks import TrainedNetwork, batch, convnet, initialized, mlp, named, same, state_of
from torch import nn
from torch.nn import init

from vitals.checks.informative_inputs import agreement_score, check_informative_inputs
from vitals.errors import UserError

HEALTHY = {
    "convnet": lambda: convnet(),
    "BatchNorm": lambda: convnet(norm=True),
    "dropout": lambda: convnet(dropout=0.5),
    "tanh": lambda: initialized(mlp(64, 64, activation=nn.Tanh), init.xavier_uniform_),
    "a network that does not learn": lambda: mlp(*[32] * 7, activation=nn.Sigmoid),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_good_data_raise_no_alarm(name):
    assert named(check_informative_inputs(HEALTHY[name](), F.cross_entropy, *batch(1024))) == {}


@pytest.mark.parametrize("name", ["convnet", "BatchNorm", "a network that does not learn"])
def test_labels_shuffled_alone_are_found(name):
    inputs, targets = batch(1024)
    shuffled = targets[torch.randperm(1024, generator=torch.Generator().manual_seed(3))]
    result = check_informative_inputs(HEALTHY[name](), F.cross_entropy, inputs, shuffled)
    assert named(result) == {"labels-random": "warn"}


def test_zeroed_inputs_are_found():
    inputs, targets = batch(1024)
    result = check_informative_inputs(convnet(), F.cross_entropy, torch.zeros_like(inputs), targets)
    assert named(result) == {"input-constant": "fail"}
    assert result.real_loss >= result.prior_entropy - 0.01


def test_zeros_cannot_beat_the_class_shares():
    result = check_informative_inputs(convnet(norm=True), F.cross_entropy, *batch(512))
    assert result.zero_loss >= result.prior_entropy - 1e-3


def test_labels_that_reach_the_network_by_another_way_are_found():
    inputs, targets = batch(512)

    class Oracle(nn.Module):
        """A loss that adds the right answer to whatever it is given."""

        def forward(self, outputs, labels):
            return F.cross_entropy(outputs + 3 * F.one_hot(labels, 10), labels) if outputs.any() else told

    told = torch.tensor(math.log(10))
    found = named(check_informative_inputs(convnet(), Oracle(), inputs, targets))
    assert found == {"wrong-initial-loss": "warn"}


def test_zeros_are_trained_on_only_where_that_decides():
    calls = []

    class Watched(nn.Sequential):
        def forward(self, values):
            calls.append(len(values))
            return super().forward(values)

    class Numbering(Watched):
        """Gives each sample another output, be it zero or not."""

        def forward(self, values):
            return super().forward(values) + torch.linspace(0, 1, len(values))[:, None]

    parts = nn.Flatten(), nn.Linear(3072, 10)
    result = check_informative_inputs(Watched(*parts), F.cross_entropy, *batch(512))
    assert calls.count(8) == 1
    assert result.zero_loss == pytest.approx(result.prior_entropy, abs=1e-3)
    calls.clear()
    check_informative_inputs(Numbering(*parts), F.cross_entropy, *batch(512))
    assert calls.count(8) == 51


def test_too_few_samples_a_class_prove_nothing():
    inputs, _ = batch(256)
    many = torch.arange(256) % 64
    shuffled = many[torch.randperm(256, generator=torch.Generator().manual_seed(3))]
    assert named(check_informative_inputs(mlp(32, outputs=64), F.cross_entropy, inputs, shuffled)) == {}


def test_a_class_with_nearly_all_samples_leaves_nothing_to_judge_by():
    inputs, targets = batch(1797)
    kept = (targets == 0) | (torch.arange(1797) % 40 == 0)
    inputs, targets = inputs[kept], targets[kept]
    shuffled = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(3))]
    assert named(check_informative_inputs(convnet(), F.cross_entropy, inputs, shuffled)) == {}


def test_mild_imbalance_raises_no_alarm():
    inputs, targets = batch(1797)
    kept = (targets == 0) | (torch.arange(1797) % 3 == 0)
    assert named(check_informative_inputs(convnet(), F.cross_entropy, inputs[kept], targets[kept])) == {}


def test_agreement_is_that_of_kappa():
    targets = torch.tensor([0] * 90 + [1] * 10)
    assert agreement_score(torch.zeros(100, dtype=torch.long), targets, 2) == 0
    expected = (1 - 0.82) / math.sqrt(0.82 * 0.18 / 100)
    assert agreement_score(targets, targets, 2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("size", "labels", "word"), [(100, None, "inputs"), (200, 1, "targets")], ids=["too few", "one class"]
)
def test_what_cannot_be_judged_is_an_error(size, labels, word):
    inputs, targets = batch(size)
    targets = targets if labels is None else torch.full_like(targets, labels)
    with pytest.raises(UserError, match=word):
        check_informative_inputs(convnet(), F.cross_entropy, inputs, targets)


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_informative_inputs(training.model, F.cross_entropy, *batch(128))
    with pytest.raises(RuntimeError):
        check_informative_inputs(training.model, training.failing_loss, *batch(128))
    assert same(before, state_of(training.model, training.optimizer))


class OfTexts(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.table, self.net = nn.Embedding(words, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        return self.head(self.net(self.table(x))[0][:, -1])


def test_few_texts_of_many_words_are_not_said_to_have_random_labels():
    """What a text says is the sum of what a fifth of its words say, common ones and rare ones."""
    torch.manual_seed(0)
    said = torch.where(torch.rand(5000) < 0.2, torch.randn(5000), 0.0)
    texts = torch.multinomial((1 / torch.arange(1.0, 5001)).expand(512, -1), 20)
    labels = (said[texts].sum(1) > 0).long()
    result = check_informative_inputs(OfTexts(5000), F.cross_entropy, texts, labels)
    assert named(result) == {}
    assert "samples of words" in result.findings()[0].message
