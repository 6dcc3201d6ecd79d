"""Wrong gradients are found where they are; right ones raise no alarm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from planted_gradients import PLANTED, Small
from right_networks import RIGHT, causes, small_net
from torch import Tensor, nn

from vitals.checks.gradients.check import check_gradients


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_gradient_is_found_where_it_is(name: str) -> None:
    planted = PLANTED[name]
    check = check_gradients(*planted.arguments(samples=3, seed=0), samples=3)
    finding = check.findings()[0]
    assert (finding.cause, finding.where) == ("wrong-gradient", planted.where), str(check)
    assert finding.alarming


def test_a_small_wrong_gradient_is_found_that_gradcheck_accepts() -> None:
    torch.manual_seed(0)
    net, x = Small(1e-6, 3).double(), torch.randn(2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda weight: net(x)[0, 1], (net.weight,))
    finding = check_gradients(net, F.cross_entropy, x, torch.tensor([0, 1])).findings()[0]
    assert (finding.cause, finding.level, finding.where) == ("wrong-gradient", "fail", "weight")


def test_an_error_of_a_thousandth_is_a_warning() -> None:
    check = check_gradients(*PLANTED["factor-1.001"].arguments(2, 0))
    assert check.findings()[0].level == "warn"


def test_the_wrong_element_is_named() -> None:
    check = check_gradients(*PLANTED["one-element"].arguments(2, 0))
    assert "[31, 4]" in check.findings()[0].message


def test_a_stopped_gradient_is_called_so() -> None:
    check = check_gradients(*PLANTED["branch-stopped-behind"].arguments(2, 0))
    assert "detach()" in check.findings()[0].remedy


class CutOff(nn.Module):
    """Two layers with `between` and, before both, `preparation`."""

    def __init__(self, preparation: Callable[[Tensor], Tensor], between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.rules = preparation, between

    def forward(self, x: Tensor) -> Tensor:
        preparation, between = self.rules
        return self.head(between(self.first(preparation(x)).tanh()))


def test_parameters_that_are_cut_off_from_the_loss_are_frozen() -> None:
    torch.manual_seed(0)
    net, y = CutOff(lambda x: x, lambda x: x.detach()), torch.tensor([0, 1])
    finding = check_gradients(net, F.cross_entropy, torch.randn(2, 6), y).findings()[0]
    assert (finding.cause, finding.level, finding.where) == ("frozen-parameters", "fail", "first.bias")
    assert "detach()" in finding.remedy


@pytest.mark.parametrize("frozen", [False, True])
def test_inputs_prepared_and_features_taken_without_gradients_are_no_fault(frozen: bool) -> None:
    torch.manual_seed(0)
    if frozen:
        net = CutOff(lambda x: x, lambda x: x.detach())
        net.first.requires_grad_(False)
    else:
        net = CutOff(lambda x: ((x - x.mean()) / x.std()).detach(), lambda x: x)
    check = check_gradients(net, F.cross_entropy, torch.randn(2, 6), torch.tensor([0, 1]))
    assert causes(check, "warn", "fail") == [], str(check)
    assert "head.weight" in check.table()


def test_the_message_says_between_which_parameters_the_fault_lies() -> None:
    finding = check_gradients(*PLANTED["sign"].arguments(2, 0)).findings()[0]
    assert "0.weight" in finding.message
    assert "before 4.weight" in finding.remedy


def test_a_gradient_that_is_not_finite_is_no_wrong_backward() -> None:
    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return x.sum() + self.weight.square().sum().sqrt()

    finding = check_gradients(Distance(), lambda y, _: y, torch.randn(2, 3), None).findings()[0]
    assert (finding.cause, finding.level, finding.where) == ("non-finite-loss", "fail", "weight")


def test_a_forward_that_differs_from_call_to_call_fails() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * (1 + 0.01 * self.calls)

    net, x, y = small_net(Counting())
    finding = check_gradients(net, F.cross_entropy, x, y).findings()[0]
    assert (finding.cause, finding.level) == ("wrong-gradient", "fail")
    assert "Non-deterministic" in finding.message


@pytest.mark.parametrize("samples", [2, 100])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_gradient_raises_no_alarm(name: str, samples: int) -> None:
    check = check_gradients(*RIGHT[name].arguments(samples, seed=samples), samples=samples, elements=3)
    assert causes(check, "warn", "fail") == [], str(check)
    assert causes(check, "ok") == ["gradients-correct"]
    # Every parameter is checked by itself.
    assert all(summary.enough for summary in check.summaries)


@pytest.mark.parametrize(("margin", "cause"), [(12, "gradients-correct"), (32, "skipped")])
def test_a_nearly_perfect_fit_is_no_alarm_though_its_loss_is_rounded_in_steps(
    margin: int, cause: str
) -> None:
    torch.manual_seed(0)
    net, x, y = nn.Linear(6, 5), torch.randn(2, 6), torch.tensor([0, 1])
    check = check_gradients(net, lambda out, t: F.cross_entropy(out + margin * F.one_hot(t, 5), t), x, y)
    assert 0 < check.loss < 1e-3
    assert [finding.cause for finding in check.findings()] == [cause], str(check)


def test_a_bias_before_batch_norm_is_no_alarm_but_a_note() -> None:
    check = check_gradients(*RIGHT["batch-norm-2d"].arguments(4, 0))
    note = next(finding for finding in check.findings() if finding.level == "note")
    assert (note.cause, note.where) == ("gradients-correct", "0.bias")
    bias = next(summary for summary in check.summaries if summary.parameter == "0.bias")
    assert bias.too_small == len(bias.rows)
    assert bias.max_error is None


def test_where_a_margin_is_kept_by_all_samples_more_are_asked_for() -> None:
    torch.manual_seed(0)
    kept = check_gradients(
        nn.Linear(6, 3), lambda x, y: F.relu(x - 100).sum(), torch.randn(2, 6), torch.ones(2)
    )
    assert [(f.level, f.cause) for f in kept.findings()] == [("note", "gradients-correct")]
    assert "a margin is kept" in kept.findings()[0].remedy


def test_float64_is_what_makes_the_comparison_work() -> None:
    net, x, y = small_net()
    errors = {
        dtype: check_gradients(net, F.cross_entropy, x, y, dtype=dtype, steps=[1e-5]).rows
        for dtype in (torch.float64, torch.float32)
    }
    worst = {dtype: max(row.relative_error for row in rows) for dtype, rows in errors.items()}
    assert worst[torch.float64] < 1e-6
    assert worst[torch.float32] > 1e-2


def test_dropout_is_checked_and_seeded_not_switched_off() -> None:
    net, x, y = small_net(nn.Dropout(0.5))
    check = check_gradients(net, F.cross_entropy, x, y)
    assert check.max_error is not None
    assert check.max_error < 1e-7
    net.eval()
    assert check_gradients(net, F.cross_entropy, x, y).loss != check.loss


def test_integer_inputs_are_not_differentiated_by() -> None:
    check = check_gradients(*RIGHT["tied-embedding"].arguments(2, 0))
    assert {summary.parameter for summary in check.summaries} == {
        "embedding.weight",
        "hidden.weight",
        "hidden.bias",
    }


def test_frozen_parameters_are_left_out() -> None:
    net, x, y = small_net()
    net[0].weight.requires_grad_(False)
    check = check_gradients(net, F.cross_entropy, x, y, check_inputs=False)
    assert [summary.parameter for summary in check.summaries] == ["0.bias", "2.weight", "2.bias"]


def test_depth_counts_layers_to_the_loss() -> None:
    net, x, y = small_net()
    depths = {s.parameter: s.depth for s in check_gradients(net, F.cross_entropy, x, y).summaries}
    assert (depths["0.weight"], depths["2.bias"], depths["input"]) == (2, 1, 2)


def test_vanishing_gradients_are_called_so() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(14) for layer in (nn.Linear(6, 6), nn.Sigmoid())]
    x, y = torch.randn(2, 6), torch.tensor([0, 1])
    check = check_gradients(nn.Sequential(*layers), F.cross_entropy, x, y, elements=1)
    assert causes(check, "warn", "fail") == ["vanishing-gradients"]


def test_spectral_norm_is_no_alarm_though_its_vectors_follow_the_weights() -> None:
    for normalized in (nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm):
        torch.manual_seed(0)
        net = nn.Sequential(normalized(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 5))
        check = check_gradients(net, F.cross_entropy, torch.randn(2, 6), torch.tensor([0, 1]))
        assert causes(check, "warn", "fail") == []


def test_a_closure_over_the_users_model_gets_no_gradients() -> None:
    net, x, y = small_net()
    check_gradients(net, lambda out, t: F.cross_entropy(out, t) + net[0].weight.square().sum(), x, y)
    assert net[0].weight.grad is None


def test_constants_of_loss_and_forward_need_not_be_float64() -> None:
    net, x, y = small_net()
    weight, shift = torch.rand(5), torch.randn(6)

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + shift)

    check = check_gradients(Shifted(), lambda out, t: F.cross_entropy(out, t, weight=weight), x, y)
    assert causes(check, "ok") == ["gradients-correct"]
