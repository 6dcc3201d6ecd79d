"""The rules on records made by hand: each fault has its signature, and what looks like it stays silent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from vitals.diagnosis.diagnose import diagnose, needs_probe
from vitals.diagnosis.run import Run
from vitals.findings import Finding
from vitals.history import History

STEPS = 200
LAYERS = ("conv1", "conv2", "head")


def falling(start: float = 2.3, end: float = 1.2, steps: int = STEPS) -> list[float]:
    """An exponential-like decay with some noise."""
    return [end + (start - end) * math.exp(-4 * i / steps) + 0.05 * math.sin(7.0 * i) for i in range(steps)]


def level(value: float = 2.3, steps: int = STEPS) -> list[float]:
    return [value + 0.01 * math.sin(7.0 * i) for i in range(steps)]


def record(
    losses: Sequence[float] | None = None,
    train: float = 0.5,
    val: float = 0.45,
    ratio: float = 3e-3,
    batch_size: float = 64,
    measured: dict[str, Sequence[Any]] | None = None,
    fresh: float = 1.0,
    epochs: float = 4.0,
) -> Run:
    """A healthy run of 200 steps in four epochs, but for what is given."""
    losses = falling() if losses is None else losses
    history = History()
    facts = {"batch_size": batch_size, "total_steps": float(len(losses)), "lr": 0.1, "train_subset": 500.0}
    facts["fresh_layers"] = fresh
    facts |= {"chance_loss": math.log(10), "chance_accuracy": 0.1, "val_subset": 500.0}
    history.add(0, 0.0, {f"facts/{name}": value for name, value in facts.items()})
    history.add_steps(
        len(losses), epochs, {"loss/train_step": list(losses), "gradient_norm": [1.0] * len(losses)}
    )
    tags: dict[str, Sequence[Any]] = {
        "update_ratio_summary/median": [ratio] * 10,
        "update_ratio_summary/max": [2 * ratio] * 10,
        **{f"update_ratio/{layer}.weight": [ratio] * 10 for layer in LAYERS},
        **{f"weight_norm/{layer}.weight": [5.0, 5.1, 5.2] for layer in LAYERS},
        **{f"activation_variance/{layer}": [0.3] * 10 for layer in LAYERS},
        **{f"gradient_variance/{layer}": [1e-6] * 10 for layer in LAYERS},
        **{f"dead_units/{layer}": [0.0] * 10 for layer in LAYERS},
        **{f"saturated_units/{layer}": [0.0] * 10 for layer in LAYERS},
        "lr/0": [0.1] * 10,
        "loss/train_eval": [2.0, 1.7, 1.5, 1.3] if train > 0.2 else [2.3, 2.301, 2.3, 2.301],
        "loss/val_eval": [2.0, 1.75, 1.6, 1.5] if val > 0.2 else [2.31] * 4,
        "accuracy/train_eval": [train] * 4,
        "accuracy/val_eval": [val] * 4,
        **(measured or {}),
    }
    for tag, values in tags.items():
        for place, value in enumerate(values):
            share = (place + 1) / len(values)
            history.add(max(1, round(share * len(losses))), 4 * share, {tag: value})
    return Run(history)


def alarms(run: Run, others: list[Finding] | None = None) -> list[str]:
    return [finding.cause for finding in diagnose(run, others or []) if finding.alarming]


def test_labels_are_named_where_a_network_that_is_able_learns_nothing_of_many_samples() -> None:
    able = [Finding("tiny-subset-fits", "ok", "It does."), Finding("step-size-sensible", "ok", "It is.")]
    many, few = ({"facts/samples_different": [count]} for count in (5000.0, 300.0))
    stuck = record(level(), measured=many, **STUCK)
    assert alarms(Run(stuck.history, able)) == ["labels-random"]
    assert alarms(Run(record(level(), measured=few, **STUCK).history, able)) == []
    assert alarms(stuck) == []
    for dropped, said in ((0.5, ["labels-random"]), (0.9, [])):  # the few are learned without it
        run = record(level(), measured=many | {"facts/dropout": [dropped]}, **STUCK)
        assert alarms(Run(run.history, able)) == said
    by_heart = record(level(), measured=many, train=0.14, val=0.11)
    assert alarms(Run(by_heart.history, able)) == ["labels-random"]
    for loss, said in ((2.3, ["labels-random"]), (2.2, [])):  # 13% of 1,000 are right of such labels by luck
        lucky = many | {"loss/val_eval": [loss] * 4, "facts/val_subset": [1000.0]}
        lucky |= {"accuracy/val_eval": [0.14, 0.12, 0.12, 0.12]}
        assert alarms(Run(record(level(), measured=lucky, train=0.16).history, able)) == said
    tokens = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    tokens |= {"facts/chance_loss": [math.nan], "facts/guess_loss": [2.3], "loss/train_eval": [2.3]}
    assert alarms(Run(record(level(), measured=many | tokens).history, able)) == ["labels-random"]
    # A masked language model stays with how often each token is there for long.
    masked = many | tokens | {"facts/unlabelled": [0.85]}
    assert alarms(Run(record(level(), measured=masked).history, able)) == []
    # As of episodes of a few classes, whose loss says little of what was learned.
    noisy = [2.3 + 1.9 * (-1) ** step for step in range(STEPS)]
    assert alarms(Run(record(noisy, measured=many | tokens).history, able)) == []


def test_a_loss_that_is_back_in_training_alone_was_thrown() -> None:
    unknown = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    unknown |= {"facts/chance_loss": [math.nan], "update_ratio_summary/max": [2.0, *[3e-3] * 9]}
    thrown = [2.5, *[150.0] * 20, *falling(60.0, 0.9, STEPS - 21)]
    for evaluated, said in ((90.0, ["learning-rate-too-high"]), (1.1, [])):
        measured = unknown | {"loss/train_eval": [9.0, 4.0, 2.0, evaluated], "loss/val_eval": []}
        assert alarms(record(thrown, measured=measured)) == said


def test_a_long_first_step_is_not_blamed_where_no_rate_comes_further() -> None:
    """As of RMSprop, where the targets of images belong to others: batches of 8 have many pixels, too."""
    numbers = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/train_eval": [], "loss/val_eval": []}
    numbers |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    numbers |= {"facts/guess_loss": [1.0]}
    fallen, thrown = falling(0.99, 0.9), level(1.0)
    for losses, lower, answers, largest, said in (
        (fallen, 0.95, 1024.0, 2.0, []),
        (fallen, 0.7, 1024.0, 0.4, ["learning-rate-too-high"]),
        (thrown, 1.1, 1024.0, 0.4, []),
        (thrown, 1.1, 1024.0, 2.0, ["learning-rate-too-high"]),
        (thrown, 0.7, 1.0, 0.4, ["batch-too-small"]),
        (thrown, 0.7, math.nan, 0.4, ["learning-rate-too-high"]),  # as of boxes, which may be many
    ):
        measured = numbers | {"facts/working_loss": [lower], "facts/answers": [answers]}
        measured |= {"update_ratio_summary/max": [largest, *[3e-3] * 9]}
        assert alarms(record(losses, batch_size=8, measured=measured)) == said


def test_what_nothing_depends_on_is_no_cause_of_what_the_others_do() -> None:
    unused = Finding("frozen-parameters", "warn", "Unused.", where="spare.weight", value=2, check="wiring")
    run = record(level(2.29), ratio=1e-6, measured={"facts/idle": [2.0]}, **STUCK)
    assert alarms(Run(run.history, [unused])) == ["learning-rate-too-low", "frozen-parameters"]
    pulled = Finding("regularization-too-strong", "warn", "It pulls.", check="regularization")
    assert alarms(Run(run.history, [unused, pulled])) == ["regularization-too-strong", "frozen-parameters"]
    reached = replace(unused, value=3)  # a gradient is cut off in front of three
    assert alarms(Run(run.history, [reached])) == ["frozen-parameters"]


def test_a_loss_that_validation_logs_with_the_other_sign_is_told() -> None:
    unknown = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    own = [-20.0, -25.0, -30.0, -33.0]
    for logged, said in (
        ([20.0, 25.0, 30.0, 33.0], ["wrong-initial-loss"]),
        ([20.0, 25.0, 30.0, 29.0], []),
        ([-20.0, -25.0, -30.0, -33.0], []),
    ):
        measured = unknown | {"loss/train_eval": own, "loss/val_eval": []}
        measured |= {"validation/loss": own, "loss/val": logged}
        assert alarms(record(falling(-15.0, -33.0), measured=measured)) == said


def test_a_loss_of_other_samples_with_the_other_sign_is_told_where_the_training_step_does_not_take_them() -> (
    None
):
    unknown = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    for own, logged, said in (
        ([-0.62, -0.68, -0.71, -0.74], [0.66, 0.71, 0.75, 0.78], ["wrong-initial-loss"]),
        ([-0.62, -0.68, -0.71, -0.74], [0.66, 0.71, 0.95, 0.98], []),  # a gap that widens is a score's
        ([-0.71, -0.72, -0.73, -0.74], [0.71, 0.72, 0.73, 0.74], []),  # too little to tell
        ([-0.62, -0.68, -0.66, -0.74], [0.66, 0.71, 0.69, 0.78], []),
    ):
        measured = unknown | {"loss/train_eval": own, "loss/val_eval": [], "loss/val": logged}
        assert alarms(record(falling(-0.6, -0.74), measured=measured)) == said


def test_a_loss_that_asks_for_nothing_more_while_most_samples_are_wrong_has_no_slope() -> None:
    """As a hinge loss on targets of 0 and 1; one with a margin may end so where all is right."""
    losses = [0.9 + 0.4 * (step < 5) for step in range(STEPS)]
    zeros = {"gradient_norm": [0.0] * 3 * STEPS}
    assert alarms(record(losses, measured=zeros, train=0.17, val=0.15)) == ["vanishing-gradients"]
    assert alarms(record(losses, measured=zeros, train=0.99, val=0.95)) == []
    assert alarms(record(losses, train=0.17, val=0.15)) == []


def test_a_loss_that_no_rate_lowers_and_small_steps_raise_is_not_put_down_to_the_rate() -> None:
    """As that of a student whose teacher is its own slow copy, which grows surer."""
    unknown = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/train_eval": [], "loss/val_eval": []}
    unknown |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    unknown |= {"facts/configured_rate": [0.1]}
    rising = [1.5 + 2.5 * step / STEPS for step in range(STEPS)]
    high = ["learning-rate-too-high"]
    for works, ratio, said in ((math.nan, 3e-3, []), (0.01, 3e-3, high), (math.nan, 0.2, high)):
        run = record(rising, ratio=ratio, measured=unknown | {"facts/working_rate": [works]})
        assert alarms(run) == said
    target = unknown | {"facts/working_rate": [0.01], "facts/answers_move": [1.0]}
    for ratio, said in ((0.1, []), (0.2, high)):
        assert alarms(record(rising, ratio=ratio, measured=target)) == said
    still = [4.0] * STEPS  # what a contrastive loss against a slow copy can come to nobody knows
    for moves, said in ((1.0, []), (0.0, high)):
        answers = unknown | {"facts/answers_move": [moves]}
        assert alarms(record(still, ratio=0.4, measured=answers)) == said
    dead = [Finding("dead-relu", "warn", "A layer is dead.")]  # a note about the rate explains nothing
    assert alarms(record(rising, ratio=0.1, measured=target), dead) == ["dead-relu"]
    assert alarms(record(rising, ratio=0.2, measured=target), dead) == high


def test_a_loss_that_asks_for_something_else_later_has_not_been_thrown() -> None:
    """As after two epochs of hints for the first layers: the others begin to move when the loss leaps."""
    hints, labels = falling(0.3, 0.04, 80), falling(2.2, 1.4, 120)
    unknown = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/train_eval": [], "loss/val_eval": []}
    unknown |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    later = {"update_ratio/head.weight": [0.0] * 4 + [3e-3] * 6}
    leaps = {"learning-rate-too-high"}
    for losses, measured, said in (
        (hints + labels, later, set()),
        (hints + labels, {}, leaps),
        (hints + labels[::-1], later, leaps),
    ):
        assert set(alarms(record(losses, measured=unknown | measured))) == said


def test_an_overflow_stands_behind_gradients_that_nothing_clears() -> None:
    overflow = Finding("non-finite-loss", "fail", "The loss itself is not finite.", step=13, exact=True)
    run = record(level(), measured={"old_gradient": [1.0, 1.0, 0.2]}, **STUCK)
    assert alarms(run, [overflow]) == ["gradients-accumulate", "non-finite-loss"]


def test_layers_of_a_teacher_get_no_gradient_and_hide_none_that_vanishes() -> None:
    layers = [f"{part}.{layer}" for part in ("teacher", "student") for layer in LAYERS]
    own = {f"{tag}/{layer}": [] for layer in LAYERS for tag in ("activation_variance", "gradient_variance")}
    own |= {f"weight_norm/{layer}.weight": [] for layer in LAYERS}
    for first, said in ((1e-6, []), (1e-20, ["vanishing-gradients"])):
        sizes = dict.fromkeys(layers[:3], 0.0) | dict(zip(layers[3:], (first, 1e-6, 1e-6), strict=True))
        sizes["student.hidden"] = 1e-6
        measured = {f"gradient_variance/{layer}": [size] * 10 for layer, size in sizes.items()}
        measured |= {f"activation_variance/{layer}": [0.3] * 10 for layer in sizes}
        measured |= {f"dead_units/{layer}": [0.0] * 10 for layer in sizes}
        measured |= {f"weight_norm/{layer}.weight": [5.0] * 3 for layer in layers[3:]}
        measured["weight_norm/student.hidden.weight"] = [5.0] * 3
        assert alarms(record(level(), measured=own | measured, **STUCK)) == said


def test_a_loss_whose_least_is_not_known_is_not_called_stuck_where_it_falls() -> None:
    """As a contrastive one, which falls little by its nature, and at a lower rate a little more."""
    unknown = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/train_eval": [], "loss/val_eval": []}
    unknown |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    probed = unknown | {"rate_probe/0.1": [6.1], "rate_probe/1": [6.5], "rate_probe/3": [9.6]}
    much = probed | {"rate_probe/0.1": [4.9]}
    falls, stays = falling(7.2, 6.6), level(7.2)
    for losses, tried, said in ((falls, probed, "note"), (falls, much, "fail"), (stays, probed, "fail")):
        found = diagnose(record(losses, measured=tried), [])
        assert [f.level for f in found if f.cause == "learning-rate-too-high"] == [said]


def test_what_is_counted_before_the_first_step_and_behind_it_is_told_once() -> None:
    before = Finding("frozen-parameters", "fail", "2 parameter(s) get no step.", value=2.0)
    run = Run(record(falling(2.5, 0.01)).history, [before])
    for count, told in ((2.0, 1), (3.0, 2)):
        behind = replace(before, message="No step comes to them.", value=count, exact=True, step=1)
        assert alarms(run, [behind]) == ["frozen-parameters"] * told


def test_a_training_step_that_knows_what_validation_step_does_not_is_told() -> None:
    numbers = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/val_eval": [], "loss/train_eval": []}
    numbers |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    told, better, apart = [0.3, 0.02, 0.003], [6.0, 3.0, 2.0], [6.0, 6.9, 8.2]
    for own, logged, found in (
        (told, apart, ["train-val-mismatch"]),
        (told, better, []),
        ([0.3, 0.31, 0.29], apart, []),
    ):
        run = record(falling(2.5, 0.01), measured=numbers | {"validation/loss": own, "loss/val": logged})
        assert ("train-val-mismatch" in alarms(run)) == bool(found)
    elsewhere = numbers | {"validation/loss": told, "loss/val": apart, "loss/train_eval": told}
    assert "train-val-mismatch" not in alarms(record(falling(2.5, 0.01), measured=elsewhere))


def test_masks_have_many_classes_each_so_that_fewer_samples_are_many() -> None:
    able = [Finding("tiny-subset-fits", "ok", "It does."), Finding("step-size-sensible", "ok", "It is.")]
    masks = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    masks |= {"facts/chance_loss": [0.7], "facts/guess_loss": [0.7], "loss/train_eval": [0.7]}
    masks |= {f"facts/{name}": [1000.0] for name in ("answers", "places")}
    masks |= {"facts/samples_different": [96.0]}
    for last, found in ((0.7, ["labels-random"]), (0.9, [])):  # there, or on its way
        run = record([1.1] * 20 + [last] * 180, batch_size=8, measured=masks)
        assert alarms(Run(run.history, able)) == found


def test_little_to_be_known_of_numbers_is_no_fault_of_theirs() -> None:
    """Targets that are mostly noise, learned by heart, of which 5% or 12% are known in samples not seen."""
    able = [Finding("tiny-subset-fits", "ok", "It does."), Finding("step-size-sensible", "ok", "It is.")]
    none = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    none |= {"facts/chance_loss": [math.nan], "facts/guess_loss": [1.0], "loss/val_eval": []}
    none |= {"loss/train_eval": [0.4], "validation/guess_loss": [1.0], "facts/samples_different": [5000.0]}
    for new, of_validation, found in (
        (0.95, 0.95, []),
        (0.88, 0.91, []),
        (0.99, 1.0, ["labels-random"]),
        (0.4, 1.2, ["train-val-mismatch"]),
    ):
        losses = [new] * 50 + [0.5] * 150
        measured = none | {"validation/loss": [of_validation]}
        history = record(losses, measured=measured).history
        assert alarms(Run(history, able, facts={"chance_loss": 1.0})) == found
        fewer = {"chance_loss": 1.0, "samples_different": 600.0}  # in which a weak signal is lost, too
        assert "labels-random" not in alarms(Run(history, able, facts=fewer))


def test_validation_of_other_targets_that_gets_better_is_judged_at_the_end() -> None:
    """The dearest houses for validation: its loss falls, and stays above that of one guess for them all."""
    measured: dict[str, Any] = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/val_eval": []}
    measured |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    measured |= {"facts/guess_loss": [1.0], "loss/train_eval": [0.2], "loss/val": [3.0, 1.0, 0.8]}
    measured |= {"validation/guess_loss": [0.5], "validation/loss": [0.8]}
    measured |= {"facts/target_mean": [1.4], "facts/target_sd": [0.7]}
    measured |= {"validation/target_mean": [3.1], "validation/target_sd": [0.5]}
    history = record(measured=measured).history
    assert alarms(Run(history)) == ["train-val-mismatch"]
    assert alarms(Run(history, finished=False)) == []


def test_a_loss_below_zero_has_no_share_of_its_first_value() -> None:
    """As that of an energy model, which tells its samples from drawn ones by less and less."""
    measured: dict[str, Any] = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/val_eval": []}
    measured |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    measured |= {"validation/loss": [0.9], "loss/train_eval": [0.1], "facts/samples_different": [5000.0]}
    for last, said in ((0.2, ["train-val-mismatch"]), (-0.2, [])):
        assert alarms(record([0.5] * 20 + [0.1] * 150 + [last] * 20, measured=measured)) == said


def test_batches_that_cannot_be_counted_are_not_called_small() -> None:
    """As a graph, in which each step sees all nodes."""
    thrown = [1.9] * 20 + [60.0 + step for step in range(STEPS - 20)]
    assert alarms(record(thrown, batch_size=0, **STUCK)) == ["learning-rate-too-high"]
    assert "batch-too-small" not in alarms(record(level(), batch_size=0, **STUCK))


def test_small_batches_whose_loss_overflows_are_put_down_to_the_rate() -> None:
    for last, said in (([math.inf], "learning-rate-too-high"), ([60.0] * 5, "batch-too-small")):
        run = record([2.3] * 60 + [60.0] * 20 + last, batch_size=8, **STUCK)
        assert said in alarms(run)
        assert len({"learning-rate-too-high", "batch-too-small"}.intersection(alarms(run))) == 1


def test_rare_classes_are_judged_at_the_end() -> None:
    _, run = SICK["classes of which nearly none are shown"]
    assert alarms(run)
    assert not alarms(Run(run.history, finished=False))


def test_a_handful_of_steps_is_told_but_of_a_trial_or_of_trained_weights() -> None:
    losses = [2.3 - 0.03 * step for step in range(10)]
    for options, found in (
        ({}, ["underfitting"]),
        ({"measured": {"facts/limited": [1.0]}}, []),
        ({"fresh": 0.2}, []),
        ({"measured": {"facts/iterations": [20.0]}}, []),
    ):
        assert alarms(record(losses, batch_size=2000, **options)) == found


@pytest.mark.parametrize(
    ("batches", "epochs", "found"), [(16.0, 4.0, ["underfitting"]), (1.0, 4.0, []), (16.0, 0.2, [])]
)
def test_few_steps_of_many_batches_each_are_told_however_many_an_epoch_has_but_of_a_trial(
    batches: float, epochs: float, found: list[str]
) -> None:
    losses = [2.3 - 0.015 * step for step in range(20)]
    run = record(losses, batch_size=1000, measured={"facts/batches_per_step": [batches]}, epochs=epochs)
    assert alarms(run) == found


def test_a_network_without_biases_that_still_learns_is_left_to_it() -> None:
    for losses, found in ((level(2.2), ["underfitting"]), (falling(2.3, 1.95), [])):
        run = record(losses, train=0.2, val=0.2)
        assert alarms(Run(run.history, facts={"homogeneous": 1.0})) == found


def test_a_first_step_that_overwrote_all_counts_where_another_rate_did_better() -> None:
    for tried, found in ((1.2, ["learning-rate-too-high"]), (1.9, [])):
        measured = {
            "update_ratio_summary/median": [1.3, *[0.01] * (STEPS - 1)],
            "facts/working_rate": [0.003],
        }
        measured |= {"facts/working_loss": [tried], "facts/configured_rate": [0.1]}
        assert alarms(record(measured=measured)) == found


def test_a_rate_that_began_better_than_a_lower_one_is_none_too_high_without_classes() -> None:
    for tried, found in ((2.2, ["learning-rate-too-high"]), (2.6, [])):
        measured = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_loss": [math.nan]}
        measured |= {"facts/working_rate": [0.003], "facts/working_loss": [tried]}
        measured |= {"rate_probe/0.1": [1.5], "rate_probe/1": [2.3], "loss/train_eval": [2.3]}
        measured |= {"facts/chance_accuracy": [math.nan], "loss/val_eval": [2.3]}
        assert alarms(record(level(), measured=measured)) == found


def test_a_rate_is_not_too_high_where_a_higher_one_does_better_than_a_lower() -> None:
    for higher, alarmed in ((2.6, True), (math.nan, True), (1.0, False)):
        probed = {"rate_probe/0.1": [1.8], "rate_probe/1": [2.3], "rate_probe/3": [2.4]}
        found = alarms(record(level(), measured=probed | {"rate_probe/10": [higher]}, **STUCK))
        assert ("learning-rate-too-high" in found) is alarmed


def test_classes_that_the_beginning_of_an_ordered_stream_lacks_follow_from_its_order() -> None:
    order = Finding("data-not-shuffled", "warn", "sorted", "Shuffle.", "labels", 0.5, 0.1)
    for drawn_evenly, found in (
        (1.0, ["train-val-mismatch", "data-not-shuffled"]),
        (0.0, ["data-not-shuffled"]),
    ):
        run = record(measured={"validation/unshown": [0.5], "facts/train_as_is": [drawn_evenly]})
        assert alarms(run, [order]) == found


def test_of_a_record_that_begins_amid_a_training_nobody_knows_how_far_the_loss_had_fallen() -> None:
    """It stays low, and lower rates take it lower, or it ends with the schedule: as at every end."""
    unknown = {name: [math.nan] for name in ("accuracy/train_eval", "accuracy/val_eval")}
    unknown |= {"facts/chance_loss": [math.nan], "facts/chance_accuracy": [math.nan]}
    unknown |= {"loss/train_eval": [0.15] * 4, "loss/val_eval": [0.2] * 4}
    probed = {"rate_probe/0.1": [0.12], "rate_probe/1": [0.17], "rate_probe/3": [0.3], "rate_probe/10": [2.0]}
    ended = {"lr/0": [0.1, 0.1, 0.01, *[1e-5] * 7]}
    for shown, cause in ((probed, "learning-rate-too-high"), (ended, "learning-rate-too-low")):
        low = unknown | shown
        assert alarms(record(level(0.16), measured=low)) == [cause]
        amid = diagnose(record(level(0.16), measured=low | {"facts/steps_before": [400.0]}), [])
        assert [finding.cause for finding in amid if finding.alarming or finding.cause == "skipped"] == []


def test_a_schedule_that_lets_go_far_on_is_looked_up_from_where_the_record_begins() -> None:
    """Steps are those of the whole training, losses those of the record."""
    history = History()
    history.add(400, 4.0, {"facts/steps_before": 400.0, "facts/total_steps": 600.0})
    history.add_steps(600, 6.0, {"loss/train_step": level(0.16)})
    for step in range(400, 600, 10):
        history.add(step, step / 100, {"lr/0": 0.1 if step < 560 else 1e-5, "update_ratio/head.weight": 1e-3})
    found = diagnose(Run(history), [])
    assert not [finding for finding in found if finding.alarming or finding.cause == "skipped"]


def test_a_rate_that_is_halved_after_the_losses_have_ended_in_nan_fails_no_rule() -> None:
    run = record([*falling(steps=60), *[math.nan] * 240], measured={"lr/0": [0.1] * 8 + [0.04] * 2})
    assert not [finding for finding in diagnose(run, []) if "fault of ours" in finding.message]


def test_a_loss_of_parts_may_rise_and_fall_again_while_the_run_goes_on() -> None:
    unknown = {"facts/chance_loss": [math.nan], "facts/chance_accuracy": [math.nan]}
    unknown |= {"accuracy/train_eval": [], "accuracy/val_eval": []}
    run = record([*falling(1.2, 1.1)[:-40], *[3.0] * 40], measured=unknown)
    for run.finished, alarmed in ((False, False), (True, True)):
        assert ("learning-rate-too-high" in alarms(run)) is alarmed


def test_a_guess_for_all_is_not_learning_where_there_are_no_classes() -> None:
    measured = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    for guess, learns in ((0.9, False), (2.0, True)):
        given = measured | {"facts/guess_loss": [guess], "loss/train_eval": [2.0, 0.95]}
        run = record(falling(4.0, 0.95), measured=given)
        assert (run.learns, run.barely_learns) == (learns, not learns)
    no_share = record(measured={"accuracy/train_eval": [-3.0, 0.5]})
    assert math.isnan(no_share.accuracy("train"))


@pytest.mark.parametrize(("optimizers", "found"), [(1.0, ["overfitting"]), (2.0, [])])
def test_losses_of_several_optimizers_say_nothing_alone(optimizers: float, found: list[str]) -> None:
    """A critic's loss falls and what is logged of validation rises again, as the generator goes on."""
    measured = {
        "facts/optimizers": [optimizers],
        "loss/train_eval": [1.3, 0.2, 0.1, 0.05],
        "loss/val_eval": [1.7, 0.3, 0.4, 0.41],
        "accuracy/train_eval": [],
        "accuracy/val_eval": [],
    }
    assert alarms(record(measured=measured)) == found


def test_weights_that_a_decay_has_halved_move_faster_at_the_same_rate() -> None:
    """As behind a normalization, to which their size means nothing: the rate is not at fault."""
    probes = {"rate_probe/0.1": [1.6], "rate_probe/1": [1.8], "rate_probe/3": [1.95], "rate_probe/10": [2.1]}
    for smallest, found in ((1.7, "regularization-too-strong"), (4.5, "learning-rate-too-high")):
        norms = {f"weight_norm/{layer}.weight": [5.0, 3.0, smallest] for layer in LAYERS}
        short = {"facts/trial_accuracy": [0.4]}
        run = record(falling(2.4, 1.7), train=0.18, val=0.17, ratio=0.03, measured=probes | norms | short)
        assert alarms(run) == [found]


def test_a_decay_takes_what_no_gradient_reaches() -> None:
    """Weights without a gradient go by any decay, and layers die of it."""
    norms = {f"weight_norm/{layer}.weight": [5.0, 0.5, 0.01] for layer in LAYERS}
    sizes = {"conv1": 1e-25, "conv2": 1e-20, "head": 1e-6, "out": 1e-6}
    gradients = {f"gradient_variance/{name}": [size] * 10 for name, size in sizes.items()}
    assert alarms(record(level(), measured=DEAD | norms | gradients, **STUCK)) == ["vanishing-gradients"]


def test_a_loss_below_zero_that_falls_has_not_risen() -> None:
    losses = [-1.3 - 0.2 * i / STEPS for i in range(STEPS)]
    assert alarms(record(losses, measured={"facts/chance_loss": [-1.4]})) == []


def test_an_evaluation_of_what_is_not_trained_is_no_fault_of_the_rate() -> None:
    probes = {"rate_probe/0.1": [1.0], "rate_probe/1": [1.2], "rate_probe/3": [1.5], "rate_probe/10": [2.0]}
    curves = {"accuracy/train": [0.3, 0.5, 0.55, 0.58], "loss/train_eval": [2.3] * 4}
    run = record(measured=probes | curves, train=0.1, val=0.1)
    assert alarms(run) == ["train-val-mismatch"]


def test_a_network_that_is_surely_wrong_in_evaluation_mode_alone_is_not_what_was_trained() -> None:
    live = {"accuracy/train": [0.3, 0.4, 0.5, 0.6]}
    for evaluated, found in (([2.0, 3.0, 4.0, 5.0], ["train-val-mismatch"]), ([2.0, 5.0, 2.4, 5.0], [])):
        assert alarms(record(measured=live | {"loss/train_eval": evaluated}, train=0.4)) == found
    lost = Finding("non-finite-loss", "fail", "The loss became NaN.", exact=True)
    run = record([*falling(), math.nan], measured=live, **STUCK)
    assert alarms(run, [lost]) == ["non-finite-loss"]  # and with NaN for weights all are of one class


def test_samples_that_were_never_shown_are_no_training_samples() -> None:
    """A trial on 100 samples that went on: what is evaluated as training is new to the network, too."""
    few = {"facts/samples_different": [100.0], "loss/train_eval": [2.0, 2.5, 2.8, 3.0]}
    few |= {"accuracy/train": [0.5, 0.9, 1.0, 1.0], "loss/train": [1.5, 0.5, 0.1, 0.05]}
    few |= {"loss/val_eval": [2.0, 2.5, 2.8, 3.0]}
    found = diagnose(record(falling(end=0.05), 0.3, 0.25, measured=few), [])
    [finding] = [each for each in found if each.alarming]
    assert finding.cause == "overfitting"
    assert "Only 100 samples came" in finding.remedy


def test_a_run_that_learns_is_silent() -> None:
    assert alarms(record()) == []
    assert not needs_probe(record())


def test_validation_that_is_known_from_a_leak_says_nothing_of_the_labels() -> None:
    new = {"facts/train_as_is": [1.0], "new/accuracy": [0.27], "new/validation": [0.45]}
    new |= {"new/samples": [500.0], "new/validation_samples": [500.0]}
    assert alarms(record(measured=new)) == ["labels-random"]
    leak = Finding("data-leak", "warn", "Validation holds samples of the training.", exact=True)
    assert alarms(record(measured=new), [leak]) == ["data-leak"]


@pytest.mark.parametrize(("commonest", "found"), [(0.1, []), (0.48, ["labels-random"])])
def test_chance_on_validation_goes_by_its_own_classes(commonest: float, found: list[str]) -> None:
    facts = {"facts/chance_accuracy": [0.48], "validation/commonest": [commonest]}
    assert alarms(record(train=0.7, val=0.28, measured=facts)) == found


def test_a_class_that_is_nearly_all_of_validation_and_not_of_training_is_no_guess_there() -> None:
    facts = {"facts/chance_accuracy": [0.5], "validation/commonest": [0.9]}
    assert not alarms(record(train=0.86, val=0.85, measured=facts))


KNOWN_BEFORE: dict[str, Sequence[Any]] = {
    "start/train": [0.7],
    "start/validation": [0.85],
    "facts/train_as_is": [1.0],
}
OFF_BY_ONE: dict[str, Sequence[Any]] = {
    "validation/accuracy": [0.22],
    "validation/next": [0.26],
    "validation/previous": [0.07],
    "validation/onward": [1.0],
    "training/next": [0.15],
    "training/previous": [0.15],
}
SMOOTHER: dict[str, Sequence[Any]] = {
    "facts/train_as_is": [1.0],
    "facts/roughness": [0.43],
    "facts/roughness_validation": [0.24],
    "facts/roughness_score": [-38.0],
}
STUCK = {"train": 0.1, "val": 0.1}
DEAD = {"dead_units/conv2": [0.0, 0.4, *[1.0] * 8], "activation_variance/conv2": [0.3, 0.1, *[0.0] * 8]}
SICK: dict[str, tuple[str, Run]] = {
    "a signal that is lost from the start, and hardly anything learned": (
        "vanishing-gradients",
        record(
            falling(2.3, 2.1),
            0.2,
            0.2,
            measured={"facts/signal_lost": [6.9], "facts/linear_accuracy": [0.21]},
        ),
    ),
    "less than a linear classifier knows, where nine of ten units are dropped": (
        "regularization-too-strong",
        record(
            falling(2.3, 2.2),
            0.16,
            0.15,
            measured={"facts/linear_accuracy": [0.21], "facts/dropout": [0.9], "loss/train_eval": [2.25]},
        ),
    ),
    "a loss on validation that only the training step gives, which has never fallen": (
        "overfitting",
        record(
            falling(0.9, 0.4),
            measured={
                **{f"accuracy/{part}_eval": [] for part in ("train", "val")},
                **{f"facts/{name}": [math.nan] for name in ("chance_loss", "chance_accuracy")},
                "loss/train_eval": [0.65, 0.58, 0.45, 0.34],
                "loss/val_eval": [],
                "validation/loss": [0.69, 0.8, 1.0, 1.4],
            },
        ),
    ),
    "less than a linear classifier knows": (
        "underfitting",
        record(falling(2.3, 2.2), 0.16, 0.15, measured={"facts/linear_accuracy": [0.21]}),
    ),
    "epochs that a hook ends early": (
        "underfitting",
        record(falling(2.3, 1.8), measured={"epoch_share": [0.11] * 4}),
    ),
    "a dropout of what should be kept": (
        "regularization-too-strong",
        record(falling(2.3, 2.15), measured={"facts/dropout": [0.95], "loss/train_eval": [2.2, 1.8]}),
    ),
    "the same where nobody knows what a guess costs": (
        "regularization-too-strong",
        record(
            falling(5.0, 3.0),
            measured={
                "facts/chance_loss": [math.nan],
                "facts/dropout": [0.95],
                "loss/train_eval": [2.2, 1.8],
            },
        ),
    ),
    "diverged": (
        "learning-rate-too-high",
        record(level(2.3, 40) + [2.3 * 1.05**i for i in range(60)], **STUCK),
    ),
    "thrown by the first steps, and hardly back": (
        "learning-rate-too-high",
        record(
            [2.3, *[5e4] * 20, *level(450.0, 179)],
            train=0.25,
            val=0.2,
            measured={"loss/train_eval": [500.0, 450.0], "loss/val_eval": [500.0, 480.0]},
        ),
    ),
    "overflowed": (
        "learning-rate-too-high",
        record([2.3, 2.4, 2.2, 9.0, 4e3, 1e9, *[math.nan] * 40], **STUCK),
    ),
    "died after huge updates": (
        "learning-rate-too-high",
        record(level(), ratio=0.5, measured=DEAD, **STUCK),
    ),
    "diverged on sixteen batches added up": (
        "gradients-accumulate",
        record(
            level(2.3, 40) + [2.3 * 1.05**i for i in range(60)],
            measured={"facts/batches_per_step": [16.0], "facts/first_losses": [16 * 2.6]},
            **STUCK,
        ),
    ),
    "diverged on the mean of sixteen batches": (
        "learning-rate-too-high",
        record(
            level(2.3, 40) + [2.3 * 1.05**i for i in range(60)],
            measured={"facts/batches_per_step": [16.0], "facts/first_losses": [2.6]},
            **STUCK,
        ),
    ),
    "a warm-up without an end": (
        "learning-rate-too-low",
        record(
            falling(2.3, 2.1),
            measured={"lr/0": [0.001 * i for i in range(1, 11)], "facts/base_lr": [0.1]},
            train=0.25,
            val=0.24,
        ),
    ),
    "a warm-up that each epoch begins anew": (
        "learning-rate-too-low",
        record(
            falling(2.3, 2.0),
            measured={"lr/0": [1e-5, 6e-5, 1.4e-4] * 4, "facts/base_lr": [2e-3]},
            train=0.3,
            val=0.27,
        ),
    ),
    "a schedule that keeps to a hundredth of the rate": (
        "learning-rate-too-low",
        record(
            falling(2.38, 2.25),
            measured={"lr/0": [1e-4] * 10, "facts/base_lr": [0.01], "rate_probe/1": [1.79]},
            train=0.146,
            val=0.169,
        ),
    ),
    "a background that the loss leaves out": (
        "class-imbalance",
        record(measured={"facts/left_out": [0.88], "accuracy/val_eval": [0.12]}),
    ),
    "validation with channels in reverse order": (
        "train-val-mismatch",
        record(
            val=0.2,
            measured={
                "validation/accuracy": [0.2],
                "validation/changed/upside down": [0.15],
                "validation/changed/channels in reverse order": [0.45],
            },
        ),
    ),
    "validation in colour after a training in grey": (
        "train-val-mismatch",
        record(
            val=0.4,
            measured={
                "validation/accuracy": [0.4],
                "validation/changed/one value for all channels, as in training": [0.47],
            },
        ),
    ),
    "validation classes in another order": (
        "train-val-mismatch",
        record(val=0.08, measured={"validation/accuracy": [0.08], "validation/relabelled": [0.45]}),
    ),
    "two pairs of validation classes exchanged": (
        "train-val-mismatch",
        record(val=0.29, measured={"validation/accuracy": [0.29], "validation/relabelled": [0.45]}),
    ),
    "validation images enlarged": ("train-val-mismatch", record(train=0.64, val=0.22, measured=SMOOTHER)),
    "a teacher that guesses": (
        "frozen-parameters",
        record(measured={"guide/teacher": [0.12], "guides/even_share": [0.1]}),
    ),
    "a layer of two units": (
        "underfitting",
        record(
            train=0.3,
            val=0.25,
            measured={
                "narrow/linear": [0.34],
                "narrow/network": [0.25],
                "narrow/score": [4.5],
                "narrow_layer/net.5": [2.0],
            },
        ),
    ),
    "half of the labels off by one": ("labels-random", record(train=0.3, val=0.22, measured=OFF_BY_ONE)),
    "classes of which nearly none are shown": (
        "class-imbalance",
        record(
            measured={
                "validation/rare": [0.5],
                "validation/rare_right": [0.05],
                "validation/accuracy": [0.5],
            }
        ),
    ),
    "classes that were never shown": ("train-val-mismatch", record(measured={"validation/unshown": [0.5]})),
    "a first step that overwrites all weights, with a loss thrown before the median of the first five": (
        "learning-rate-too-high",
        record(
            [0.69, 2.1, 7.4, 4.5, 5.6, *level(0.71, STEPS - 5)],
            train=0.5,
            val=0.5,
            measured={
                "update_ratio_summary/median": [7.3, *[3e-3] * (STEPS - 1)],
                "update_ratio_summary/max": [7.8, *[0.03] * 9],
                "facts/chance_loss": [math.nan],
                "facts/configured_rate": [0.15],
                "loss/train_eval": [0.7] * 4,
                "loss/val_eval": [0.7] * 4,
            },
        ),
    ),
    "died without huge updates": ("dead-relu", record(level(), measured=DEAD, **STUCK)),
    "died between two looks, in which the weights have grown threefold": (
        "learning-rate-too-high",
        record(
            level(),
            measured=DEAD | {f"weight_norm/{layer}.weight": [5.0, *[15.0] * 9] for layer in LAYERS},
            **STUCK,
        ),
    ),
    "stuck, better at a tenth of the rate": (
        "learning-rate-too-high",
        record(
            level(), measured={"rate_probe/0.1": [2.0], "rate_probe/1": [2.3], "rate_probe/3": [2.4]}, **STUCK
        ),
    ),
    "hardly moves, with batches of a few samples": (
        "learning-rate-too-low",
        record(
            level(),
            ratio=1e-5,
            batch_size=8,
            measured={"rate_probe/1": [2.3], "rate_probe/10": [2.2]},
            **STUCK,
        ),
    ),
    "hardly moves, and an update a thousand times as long would have halved the loss": (
        "learning-rate-too-low",
        record(
            level(), ratio=2e-5, measured={"facts/best_length": [1600.0], "facts/best_gain": [0.56]}, **STUCK
        ),
    ),
    "moves by a thousandth in a whole run, a schedule included": (
        "learning-rate-too-low",
        record(level()[: STEPS // 2], ratio=7e-6, **STUCK),
    ),
    "hardly moves, faster is better": (
        "learning-rate-too-low",
        record(level(), ratio=1e-6, measured={"rate_probe/1": [2.3], "rate_probe/10": [2.2]}, **STUCK),
    ),
    "so slow that ten times the rate does ten times the good": (
        "learning-rate-too-low",
        record(
            level(2.25),
            ratio=2e-5,
            train=0.17,
            val=0.17,
            measured={
                "rate_probe/0.1": [2.2228],
                "rate_probe/1": [2.2222],
                "rate_probe/3": [2.2209],
                "rate_probe/10": [2.2165],
            },
        ),
    ),
    "in proportion to the rate at larger steps too": (
        "learning-rate-too-low",
        record(
            level(2.25),
            ratio=5e-4,
            train=0.17,
            val=0.17,
            measured={
                "rate_probe/0.1": [2.248],
                "rate_probe/1": [2.241],
                "rate_probe/3": [2.224],
                "rate_probe/10": [2.174],
            },
        ),
    ),
    "schedule ends at once": (
        "learning-rate-too-low",
        record(level(), measured={"lr/0": [0.1, 1e-3, 1e-5, *[1e-8] * 7]}, **STUCK),
    ),
    "schedule that lets go of a loss half-way": (
        "learning-rate-too-low",
        record(falling(2.3, 1.6), measured={"lr/0": [0.1, 0.1, 0.01, *[1e-4] * 7]}),
    ),
    "schedule that lets go of a loss that falls fast": (
        "learning-rate-too-low",
        record(
            [max(2.3 - 0.02 * step, 1.2) for step in range(STEPS)],
            measured={"lr/0": [0.1, 0.1, 0.01, 1e-3, *[1e-4] * 6]},
        ),
    ),
    "an average of the weights that has hardly left the first": (
        "train-val-mismatch",
        record(
            falling(2.3, 1.5),
            train=0.18,
            val=0.16,
            measured={"accuracy/train": [0.2, 0.4, 0.45], "loss/train_eval": [2.4, 2.35, 2.31]},
        ),
    ),
    "weights that each epoch puts back": (
        "frozen-parameters",
        record(measured={"loss/train_eval": [2.1, 1.835276, 1.835276, 1.835276]}),
    ),
    "an average of the weights that stays at the first": (
        "train-val-mismatch",
        record(train=0.1, val=0.1, measured={"accuracy/train": [0.3, 0.4, 0.45]}),
    ),
    "noise of two samples": ("batch-too-small", record(level(2.5), batch_size=2, **STUCK)),
    "weights shrink away": (
        "regularization-too-strong",
        record(
            level(), measured={f"weight_norm/{layer}.weight": [5.0, 0.5, 0.01] for layer in LAYERS}, **STUCK
        ),
    ),
    "below zero": ("learning-rate-too-high", record(measured={"lr/0": [0.1, 0.05, 0.0, -0.05]})),
    "known before the first step": (
        "data-leak",
        record(measured=KNOWN_BEFORE | {"validation/reweighed": [0.52]}, fresh=0.0),
    ),
    "betas exchanged": ("learning-rate-too-high", record(measured={"facts/beta_excess": [0.099]})),
    "loss of a guess under dropout": ("regularization-too-strong", record(level(), train=0.3, val=0.3)),
    "old gradients": (
        "gradients-accumulate",
        record(level(), measured={"old_gradient": [1.0, 1.0, 0.98]}, **STUCK),
    ),
    "a layer that never moves": (
        "frozen-parameters",
        record(measured={"update_ratio/conv1.weight": [0.0] * 10}),
    ),
    "memory": (
        "overfitting",
        record(
            falling(end=0.05),
            train=1.0,
            val=0.4,
            measured={
                "loss/train_eval": [1.5, 0.8, 0.3, 0.1, 0.05],
                "loss/val_eval": [1.8, 1.7, 1.9, 2.3, 2.8],
            },
        ),
    ),
    "another order of classes": ("labels-random", record(train=0.7, val=0.1)),
    "at limits": (
        "saturated-activations",
        record(level(), measured={"saturated_units/conv1": [0.1, *[0.95] * 9]}, **STUCK),
    ),
    "no gradient below": (
        "vanishing-gradients",
        record(
            level(),
            measured={
                **{f"gradient_variance/l{i}": [10.0 ** (-6 - 3 * (6 - i))] * 5 for i in range(7)},
                **{f"activation_variance/l{i}": [0.3] * 5 for i in range(7)},
                **{f"dead_units/l{i}": [0.0] * 5 for i in range(7)},
                **{f"gradient_variance/{layer}": [] for layer in LAYERS},
                **{f"activation_variance/{layer}": [] for layer in LAYERS},
            },
            **STUCK,
        ),
    ),
    "too weak": (
        "underfitting",
        record(
            level(2.25),
            train=0.16,
            val=0.15,
            measured={f"rate_probe/{factor}": [2.24] for factor in ("0.1", "1", "3", "10")}
            | {"loss/train_eval": [2.25] * 4},
        ),
    ),
}


def test_outputs_that_steps_throw_about_are_not_laid_to_dropout():
    assert "regularization-too-strong" not in alarms(record(level(1.5 * math.log(10)), train=0.3, val=0.3))


@pytest.mark.parametrize("name", SICK)
def test_each_fault_is_named_first_and_alone(name: str) -> None:
    cause, run = SICK[name]
    assert alarms(run) == [cause]


@pytest.mark.parametrize("name", SICK)
def test_a_remedy_is_given_with_evidence(name: str) -> None:
    cause, run = SICK[name]
    [finding] = [finding for finding in diagnose(run, []) if finding.cause == cause and finding.alarming]
    assert finding.remedy
    assert finding.value is not None
    assert finding.step > 0


HEALTHY: dict[str, Run] = {
    "labels smoothed in training alone, whose guess costs twice as much": record(
        level(3.94), measured={"facts/own_chance": [4.6]}
    ),
    "a teacher that knows some": record(measured={"guide/teacher": [0.4], "guides/even_share": [0.1]}),
    "validation images that are smoother, and known as well": record(train=0.64, val=0.6, measured=SMOOTHER),
    "training images whose roughness is that of an augmentation": record(
        train=0.64, val=0.22, measured=SMOOTHER | {"facts/train_as_is": [0.0]}
    ),
    "grades that are given too high, in training as in validation": record(
        train=0.3, val=0.22, measured=OFF_BY_ONE | {"training/next": [0.24], "training/previous": [0.06]}
    ),
    "short epochs, many of them": record(falling(2.3, 1.8), measured={"epoch_share": [0.26] * 10}),
    "a narrow layer in a run that has only begun": record(
        [2.4 - 2e-5 * step**2 for step in range(STEPS)],
        train=0.4,
        val=0.4,
        measured={
            "narrow/linear": [0.6],
            "narrow/network": [0.4],
            "narrow/score": [9.0],
            "narrow_layer/net.5": [8.0],
        },
    ),
    "steps of a scale along which validation is shifted, told apart in training": record(
        train=0.7,
        val=0.22,
        measured=OFF_BY_ONE,
    ),
    "steps of a fine scale along which validation is shifted": record(
        train=0.3, val=0.22, measured=OFF_BY_ONE | {"validation/second_next": [0.2]}
    ),
    "one class that is given too often": record(
        train=0.3, val=0.22, measured=OFF_BY_ONE | {"validation/onward": [0.5]}
    ),
    "classes that are taken for those beside them, on both sides": record(
        train=0.3, val=0.22, measured=OFF_BY_ONE | {"validation/previous": [0.2]}
    ),
    "a group that climbs, and a schedule that ends at zero but for rounding": record(
        measured={"lr/0": [0.1, 0.05, -1e-17], "lr/1": [-0.01, -0.005, 0.0]}
    ),
    "trained weights, and training samples that stay the harder ones": record(
        measured=KNOWN_BEFORE | {"validation/reweighed": [0.64]}, fresh=0.0
    ),
    "batches of nearly one class, some of which have another": record(
        [0.3, 0.2, 0.1] + [0.0, 0.0, 0.0, 0.14] * 50,
        measured={"facts/chance_loss": [0.0357], "loss/train_eval": [0.034, 0.0335]},
    ),
    "a cycle of the rate in each epoch": record(
        falling(2.3, 1.9),
        measured={"lr/0": [1e-3, 0.02, 1e-3] * 4, "facts/base_lr": [0.05]},
    ),
    "a run as long as its warm-up, by a factor, that learns": record(
        falling(2.3, 0.5),
        measured={"lr/0": [4e-4 * i for i in range(1, 11)], "facts/base_lr": [0.5]},
    ),
    "episodes that it plays itself, one a batch": record(
        level(30.0),
        ratio=0.5,
        batch_size=1,
        measured={
            "facts/plays": [1.0],
            **{f"facts/chance_{of}": [math.nan] for of in ("loss", "accuracy")},
            **{f"{of}/{part}_eval": [] for of in ("loss", "accuracy") for part in ("train", "val")},
        },
    ),
    "huge first updates that are survived": record(ratio=0.15),
    "validation classes of which two are mixed up": record(
        measured={"validation/accuracy": [0.42], "validation/relabelled": [0.51]}
    ),
    "validation of one class, which one name for all puts right": record(
        measured={
            "validation/accuracy": [0.55],
            "validation/relabelled": [0.9],
            "validation/commonest": [0.9],
        }
    ),
    "a signal that is lost, which an adaptive optimizer bears": record(measured={"facts/signal_lost": [6.9]}),
    "a signal that is lost, and data of which a linear classifier knows no more": record(
        falling(2.3, 2.1), 0.2, 0.2, measured={"facts/signal_lost": [6.9], "facts/linear_accuracy": [0.17]}
    ),
    "level where a linear classifier knows no more": record(
        level(2.25),
        train=0.16,
        val=0.15,
        measured={f"rate_probe/{factor}": [2.24] for factor in ("0.1", "1", "3", "10")}
        | {"loss/train_eval": [2.25] * 4, "facts/linear_accuracy": [0.14]},
    ),
    "less than a linear classifier knows, on its way": record(
        falling(2.3, 1.0), 0.85, 0.85, measured={"facts/linear_accuracy": [0.91]}
    ),
    "classes weighed evenly, of which one is nearly all": record(
        falling(0.69, 0.5),
        0.7,
        0.7,
        measured={
            "facts/linear_accuracy": [0.87],
            "facts/chance_loss": [0.33],
            "facts/chance_accuracy": [0.9],
        },
    ),
    "about what a linear classifier knows": record(
        falling(2.3, 1.9), 0.2, 0.19, measured={"facts/linear_accuracy": [0.21]}
    ),
    "a schedule that lets go of a loss that has come to its end": record(
        [max(2.3 - 0.1 * step, 1.2) for step in range(STEPS)],
        measured={"lr/0": [0.1, 0.1, 0.01, 1e-3, *[1e-4] * 6]},
    ),
    "a schedule that ends early, of labels half of which are wrong": record(
        falling(2.4, 2.0), 0.3, 0.22, measured={"lr/0": [0.1] * 4 + [0.01] * 2 + [1e-4] * 4}
    ),
    "a schedule that ends near zero": record(measured={"lr/0": [0.1, 0.1, 0.08, 0.05, 0.02, 1e-3, 1e-5]}),
    "fine-tuning at a tiny rate": record(level(0.3), train=0.9, val=0.88, ratio=1e-6),
    "augmentation stronger than validation": record(falling(2.3, 1.9), train=0.5, val=0.5),
    "batches of four that learn": record(batch_size=4),
    "full batches, whose gradients stay alike": record(measured={"old_gradient": [0.02, -0.1, 0.3]}),
    "dead units in a run that learns": record(measured={"dead_units/conv2": [0.95] * 10}),
    "a bad epoch of validation": record(measured={"loss/val_eval": [2.0, 1.6, 2.6, 1.5]}),
    "a head that was replaced, and stays in the optimizer": record(
        measured={"update_ratio/parameter 6": [0.0] * 10}
    ),
    "small steps, and larger ones do worse": record(
        level(2.25),
        train=0.17,
        val=0.17,
        ratio=6e-4,
        measured={
            "rate_probe/0.1": [1.531],
            "rate_probe/1": [1.53],
            "rate_probe/3": [1.554],
            "rate_probe/10": [1.593],
        },
    ),
    "a bias in front of BatchNorm, at a small rate": record(measured={"update_ratio/conv1.bias": [0.0] * 10}),
    "regression on single samples, the first of which was easy": record(
        [0.1, *level(1.0, 199)], batch_size=1, measured={"facts/chance_loss": [math.nan]}
    ),
    "a rise that the run gets over": record([2.3, *[40.0] * 5, *falling(steps=194)]),
    "a broken record": Run(History()),
    "accumulated by hand, so that the loss of a step is not known": record(
        [], measured={"facts/batches_per_step": [4.0]}
    ),
    "one step": record([2.3]),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_the_healthy_but_unusual_is_silent(name: str) -> None:
    found = diagnose(HEALTHY[name], [])
    assert [f.cause for f in found if f.alarming] == []
    assert [f.message for f in found if f.where == "diagnosis"] == []  # a rule that failed says so there


def test_validation_at_chance_is_a_mismatch_where_training_images_held_out_were_learned() -> None:
    run = record(train=0.7, val=0.1)
    run.checks = [Finding("inputs-informative", "ok", "")]
    assert alarms(run) == ["train-val-mismatch"]


def test_what_was_wrong_before_learning_explains_what_went_wrong_after() -> None:
    run = SICK["died without huge updates"][1]
    later = Run(run.history, [Finding("bad-initialization", "fail", "The weights are all alike.")])
    found = diagnose(later, [])
    assert [finding.cause for finding in found if finding.alarming] == ["bad-initialization"]
    [consequence] = [finding for finding in found if finding.cause == "dead-relu"]
    assert consequence.level == "note"
    assert "bad-initialization" in consequence.message


def test_a_layer_that_the_rate_has_killed_is_noted_beside_it() -> None:
    found = diagnose(SICK["died after huge updates"][1], [])
    [note] = [finding for finding in found if finding.cause == "dead-relu"]
    assert (note.level, note.station) == ("note", "updates")
    assert "learning-rate-too-high" in note.message


def test_weights_that_a_penalty_takes_away_are_why_a_few_examples_were_not_fitted() -> None:
    run = SICK["weights shrink away"][1]
    later = Run(run.history, [Finding("underfitting", "fail", "20 examples are not fitted.")])
    assert alarms(later) == ["regularization-too-strong"]


def test_what_was_feared_before_learning_and_came_true_is_a_failure_of_the_run() -> None:
    run = Run(SICK["diverged"][1].history, [Finding("learning-rate-too-high", "warn", "Too large a step.")])
    [finding] = [finding for finding in diagnose(run, []) if finding.alarming]
    assert (finding.cause, finding.level) == ("learning-rate-too-high", "fail")
    assert finding.step > 0
    assert finding.message.startswith("Too large a step. It has come true in step 100: The loss rose")


def test_an_overflow_after_a_diverging_loss_is_no_second_cause() -> None:
    overflow = Finding("non-finite-loss", "fail", "The gradient of 'conv1.weight' became NaN.", step=6)
    assert alarms(SICK["overflowed"][1], [overflow]) == ["learning-rate-too-high"]
    assert alarms(record([2.3, 2.2, 2.3, *[math.nan] * 40], **STUCK), [overflow]) == ["non-finite-loss"]


@pytest.mark.parametrize(("lowered", "level"), [(1.735, "note"), (1.704, "warn")])
def test_a_rate_at_which_a_run_learns_but_slowly_is_noted_at_a_tenth_and_an_alarm_at_a_twentieth(
    lowered: float, level: str
) -> None:
    measured = {"rate_probe/0.1": [1.793], "rate_probe/1": [1.784], "rate_probe/3": [1.769]}
    trained = record(falling(2.3, 1.7), 0.37, 0.32, 6e-4, measured=measured, fresh=0.2)
    assert not needs_probe(trained)  # with a new head, say
    run = record(falling(2.3, 1.7), 0.37, 0.32, 6e-4, measured=measured | {"rate_probe/10": [lowered]})
    assert needs_probe(record(falling(2.3, 1.7), 0.37, 0.32, 6e-4))
    [finding] = [finding for finding in diagnose(run, []) if finding.cause == "learning-rate-too-low"]
    assert finding.level == level


def test_a_stuck_run_that_nothing_explains_asks_for_a_probe() -> None:
    assert needs_probe(record(level(), **STUCK))
    assert not needs_probe(record(level()[:20], **STUCK))


def test_latents_that_are_the_same_for_all_are_told_where_noise_goes_on_behind_them() -> None:
    free = {"accuracy/train_eval": [], "accuracy/val_eval": [], "facts/chance_accuracy": [math.nan]}
    free |= {"facts/chance_loss": [math.nan]}
    lost = [0.3 * 0.5**step for step in range(10)]
    for variances, found in (
        ({"conv2": lost}, ["regularization-too-strong"]),
        ({"conv2": lost, "head": lost}, []),  # all that follows is lost with it: a death
        ({"conv2": [value + 0.01 for value in lost]}, []),
        ({"conv2": lost, "still pulled": lost}, []),  # as in front of a normalization, or in a residual
    ):
        measured = {f"activation_variance/{layer}": values for layer, values in variances.items()}
        if not measured.pop("activation_variance/still pulled", None):
            measured["gradient_variance/conv2"] = [1e-6 * 0.5**step for step in range(10)]
        assert alarms(record(measured=free | measured)) == found
    measured = {"activation_variance/conv2": lost, "gradient_variance/conv2": lost}
    assert alarms(record(measured=measured)) == []  # with classes others judge


def test_a_rate_too_low_because_of_adams_epsilon_says_so() -> None:
    measured = {
        "facts/epsilon": [1.0],
        "rate_probe/0.1": [2.29],
        "rate_probe/1": [2.25],
        "rate_probe/10": [1.8],
    }
    for given, said in ((measured, True), (measured | {"facts/epsilon": [1e-8]}, False)):
        [finding] = [
            each
            for each in diagnose(record(level(), ratio=5e-5, measured=given, **STUCK), [])
            if each.alarming
        ]
        assert finding.cause == "learning-rate-too-low"
        assert ("Adam's eps from 1," in finding.remedy) is said


def test_a_rate_of_fine_tuning_at_fresh_weights_asks_for_those_that_were_to_be_loaded() -> None:
    for rate, said in ((1e-5, True), (0.1, False)):
        measured = {"lr/0": [rate], "rate_probe/1": [2.3], "rate_probe/10": [2.2]}
        run = record(level(), ratio=1e-6, measured=measured, **STUCK)
        [finding] = [each for each in diagnose(run, []) if each.alarming]
        assert ("strict=False" in finding.remedy) is said


NUMBERS = {
    "accuracy/train_eval": [],
    "accuracy/val_eval": [],
    "facts/chance_accuracy": [math.nan],
    "facts/chance_loss": [math.nan],
}
"""A run whose targets are no class numbers."""


def test_outputs_that_start_too_far_apart_are_why_the_loss_stays_above_that_of_a_guess() -> None:
    for facts, found in (
        ({"facts/start_over_level": [32.0], "facts/guess_loss": [0.8]}, ["bad-initialization"]),
        ({"facts/start_over_level": [3.0], "facts/guess_loss": [0.8]}, []),
        ({"facts/start_over_level": [32.0], "facts/guess_loss": [20.0]}, []),  # it came down
    ):
        assert alarms(record(falling(64.0, 6.0), measured=NUMBERS | facts)) == found


def test_vectors_that_are_seldom_drawn_want_a_larger_rate_where_the_curvature_bears_it() -> None:
    probes = {"rate_probe/0.1": [0.8296], "rate_probe/1": [0.8296], "rate_probe/10": [0.822]}
    facts = probes | {"facts/guess_loss": [0.8], "curvature/bearable": [200.0]}
    for largest, found in ((2.0, ["learning-rate-too-low"]), (50.0, [])):
        measured = NUMBERS | facts | {"curvature/largest": [largest], "loss/train_eval": [0.76, 0.74]}
        assert alarms(record(falling(0.93, 0.75), ratio=2e-4, measured=measured, fresh=0.0)) == found


def test_activations_that_a_penalty_puts_out_are_its_fault_and_not_that_of_the_rate() -> None:
    dead = {f"dead_units/{layer}": [0.0, *[1.0] * 9] for layer in LAYERS[1:2]}
    for pull, found in ((9.0, ["regularization-too-strong"]), (0.5, ["dead-relu"])):
        measured = dead | {"facts/beside": [pull], "facts/even_share": [0.1]}
        run = record([2.8, *level(steps=199)], measured=measured, **STUCK)
        assert alarms(run) == found


def test_exponentials_between_layers_are_named_where_the_training_suffers() -> None:
    measured = {"facts/bursts": [1.0]}
    assert alarms(record(measured=measured)) == []
    thrown = Finding("learning-rate-too-high", "warn", "The first update throws the loss.", exact=True)
    run = Run(record(measured=measured).history, [thrown])
    assert alarms(run)[0] == "exploding-gradients"


def test_a_loss_of_another_scale_does_not_hide_that_nothing_moves() -> None:
    probes = {"rate_probe/0.1": [0.17945], "rate_probe/1": [0.17938], "rate_probe/10": [0.1782]}
    run = record(level(0.18), ratio=6e-5, measured=probes, **STUCK)
    assert alarms(run) == ["learning-rate-too-low"]


@pytest.mark.parametrize(("end", "causes"), [(1.7, ["learning-rate-too-high"]), (1.1, [])])
def test_layers_that_train_later_and_forget_are_told(end: float, causes: list[str]) -> None:
    losses = [*falling(2.3, 1.2)[:100], *[2.5] * 10, *[end] * 90]
    evaluated = [2.0, 1.5, 1.3 * end, end]
    run = record(losses, measured={"accuracy/val": [0.4], "loss/train_eval": evaluated})
    run.history.add(120, 2.4, {"update_ratio/trunk.weight": 0.03})
    assert [cause for cause in alarms(run) if cause != "underfitting"] == causes


def test_layers_that_train_later_on_harder_batches_have_not_forgotten() -> None:
    run = record([*falling(2.3, 1.2)[:100], *[2.5] * 10, *[1.7] * 90], measured={"accuracy/val": [0.4]})
    run.history.add(120, 2.4, {"update_ratio/trunk.weight": 0.03})
    assert "learning-rate-too-high" not in alarms(run)


def test_a_rate_that_leaves_nothing_of_the_start_is_judged_by_how_far_a_short_trial_at_another_comes() -> (
    None
):
    found = {"update_ratio_summary/median": [1.3] + [5e-3] * (STEPS - 1)}
    for tried, said in ((1.9, ["learning-rate-too-high"]), (2.1, [])):
        trial = {"facts/configured_rate": [0.1], "facts/working_rate": [1e-3], "facts/working_loss": [tried]}
        assert alarms(record(falling(2.3, 1.7), measured=found | trial, train=0.4)) == said


def test_a_rate_is_tried_where_the_loss_comes_back_to_that_of_a_guess() -> None:
    losses = [*level(2.3, 20), *level(2.0, 20), *level(2.28, 20), *level(1.9, 140)]
    high = {"rate_probe/0.1": [1.7], "rate_probe/1": [1.9], "rate_probe/3": [2.2], "rate_probe/10": [2.3]}
    assert needs_probe(record(losses, train=0.3, ratio=0.02))
    assert not needs_probe(record(falling(2.3, 1.9), train=0.3, ratio=0.02))
    run = record(losses, train=0.3, ratio=0.02, measured=high)
    assert alarms(run) == ["learning-rate-too-high"]
    assert any("went back up to it" in finding.message for finding in diagnose(run, []))


def test_windows_with_more_or_fewer_of_a_rare_class_are_no_fall_back_to_a_guess() -> None:
    rare = {"facts/chance_loss": [0.2], "facts/chance_accuracy": [0.95]}
    rare |= {"rate_probe/0.1": [0.18], "rate_probe/1": [0.195], "rate_probe/3": [0.2], "rate_probe/10": [0.3]}
    losses = [*level(0.7, 5), *(0.19 + 0.02 * math.sin(step / 8) for step in range(195))]
    found = alarms(record(losses, train=0.95, val=0.95, measured=rare))
    assert "learning-rate-too-high" not in found


def test_what_the_loss_takes_beside_the_outputs_pulls_at_nothing_that_moves() -> None:
    beside = {"facts/beside": [40.0], "facts/even_share": [0.1]}
    for ratio, said in ((3e-3, ["regularization-too-strong"]), (0.0, [])):
        found = alarms(record(level(), measured=beside, train=0.11, val=0.1, ratio=ratio))
        assert ("regularization-too-strong" in found) == bool(said)


@pytest.mark.parametrize(("peak", "found"), [(1e-3, ["regularization-too-strong"]), (1e-4, [])])
def test_a_decay_apart_from_the_gradient_is_told_once_a_schedule_has_come_to_its_rate(
    peak: float, found: list[str]
) -> None:
    run = record(measured={"lr/0": [0.0, *[peak] * 8, 0.0]})
    assert alarms(Run(run.history, facts={"decay_apart": 30.0, "decay_group": 0.0})) == found


@pytest.mark.parametrize(
    ("rate", "ratio", "fresh", "said"),
    [(1e-4, 1e-5, 1.0, True), (1e-4, 3e-4, 1.0, False), (1e-2, 1e-5, 1.0, False), (1e-4, 1e-5, 0.2, False)],
    ids=["a thousandth", "moves all the same", "a tenth", "trained before"],
)
def test_a_group_whose_rate_leaves_it_as_it_was_drawn_is_named(
    rate: float, ratio: float, fresh: float, said: bool
) -> None:
    measured = {"lr/1": [rate] * 10, "update_ratio_summary/0": [3e-3] * 10}
    run = record(measured={**measured, "update_ratio_summary/1": [ratio] * 10})
    assert alarms(Run(run.history, facts={"fresh_group/1": fresh})) == ["learning-rate-too-low"] * said
    del measured["update_ratio_summary/0"]  # as of a generator that learns by each fifth batch
    run = record(measured={**measured, "update_ratio_summary/1": [ratio] * 10})
    assert alarms(Run(run.history, facts={"fresh_group/1": fresh})) == ["learning-rate-too-low"] * said


@pytest.mark.parametrize(
    ("rise", "looks", "different", "said"),
    [
        ((0.02, 0.03), [1.2, 1.25, 1.3], [600.0], True),
        ((0.02, 0.03), [1.2, 1.25, 1.3], [300.0], False),
        ((0.02, 0.03), [1.2, 1.1, 1.0], [600.0], False),
        ((0.07, 0.06), [1.2, 1.25, 1.3], [600.0], False),
        ((3.0, 0.1), [1.2, 1.25, 1.3], [600.0], False),
    ],
    ids=["shuffled", "few", "on its way", "hardly known", "known"],
)
def test_validation_that_does_not_mind_what_belongs_together_is_told(
    rise: tuple[float, float], looks: list[float], different: list[float], said: bool
) -> None:
    able = [Finding("tiny-subset-fits", "ok", "It does."), Finding("step-size-sensible", "ok", "It is.")]
    unknown = {"accuracy/train_eval": [], "accuracy/val_eval": [], "loss/val_eval": []}
    unknown |= {"facts/chance_accuracy": [math.nan], "facts/chance_loss": [math.nan]}
    measured = {"validation/exchanged": [rise[0]], "validation/exchanged_error": [rise[1]]}
    measured |= {"validation/loss": looks, "facts/samples_different": different}
    run = record(falling(1.2, 0.9), measured=unknown | measured)
    assert alarms(Run(run.history, able)) == ["labels-random"] * said
