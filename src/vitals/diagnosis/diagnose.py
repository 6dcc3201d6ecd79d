"""From the record of a run to ranked findings."""

from collections.abc import Sequence
from dataclasses import replace

from vitals.causes import CAUSES
from vitals.diagnosis import capacity, generalization, learning_rate, modes, signal, updates
from vitals.diagnosis.run import Rule, Run
from vitals.errors import reason_of
from vitals.findings import Finding, consequence, looks, ranked, without_consequences

RULES: tuple[Rule, ...] = (
    updates.gradients_accumulate,
    updates.gradients_summed,
    updates.put_back,
    updates.frozen_parameters,
    updates.guided_by_guesses,
    modes.evaluating_in_training,
    modes.training_in_validation,
    modes.statistics_apart,
    modes.evaluation_at_chance,
    capacity.regularization_too_strong,
    capacity.features_lost,
    learning_rate.betas_exchanged,
    learning_rate.below_zero,
    learning_rate.too_high,
    learning_rate.thawed,
    learning_rate.batch_too_small,
    learning_rate.too_low,
    learning_rate.group_left_behind,
    signal.starts_far_apart,
    signal.bursts,
    signal.exploding,
    signal.saturated_layer,
    signal.vanishing,
    signal.dead_layer,
    generalization.classes_never_shown,
    generalization.classes_rare,
    generalization.classes_left_out,
    generalization.classes_renumbered,
    generalization.prepared_otherwise,
    generalization.rougher_or_smoother,
    generalization.validation_known_before,
    generalization.labels_off_by_one,
    generalization.labels_wrong_in_part,
    generalization.nothing_to_learn,
    generalization.validation_at_chance,
    generalization.validation_guessed,
    generalization.validation_told_less,
    generalization.validation_mirrored,
    generalization.overfitting,
    capacity.too_few_steps,
    capacity.epochs_cut_short,
    capacity.without_biases,
    capacity.signal_lost,
    capacity.narrow_layer,
    capacity.underfitting,
)
"""Roots before what follows from them: of two findings of one level the first is named first."""

OF_LESS = ("frozen-parameters", "underfitting")
"""What parts on which nothing depends may bring about: the others are fewer than was meant."""


def diagnose(run: Run, others: list[Finding], rules: Sequence[Rule] = RULES) -> list[Finding]:
    """All findings of `run`, with those of its checks, and of `others`, the monitors, most important first;
    what follows from another one is a note. Further `rules` stand after those in `RULES`."""
    step, epoch = _now(run)
    judged = [finding for rule in rules for finding in _judged(rule, run)]
    found = [replace(f, step=f.step or step, epoch=f.epoch or epoch) for f in judged]
    later = _once([*others, *found])
    rate = next((f for f in found if f.cause == "learning-rate-too-high" and f.alarming), None)
    if rate is not None:  # dead layers and overflow are the end of a divergence, not its cause
        later = [_follows(f, rate) if CAUSES[f.cause].of_divergence else f for f in later]
    later = without_consequences(later)
    taken = any(f.level == "fail" and f.cause == "regularization-too-strong" for f in later)
    checks = [_no_room(f) if taken and f.cause == "underfitting" and f.alarming else f for f in run.checks]
    checks = [_meant(f, run) if f.alarming and not f.exact else f for f in checks]
    facts = [finding for finding in later if finding.exact]
    checks = without_consequences([*facts, *checks])[len(facts) :]
    roots = sorted((f for f in checks if f.alarming), key=lambda f: _takes_no_part(f, run))
    if roots:
        root = roots[0]
        may_follow = [f for f in later if f.cause in OF_LESS or not _takes_no_part(root, run)]
        worst = next(
            (f for f in may_follow if f.level == "fail" and CAUSES[f.cause].symptom and not f.exact), None
        )
        later = [_follows(f, root) if f in may_follow else f for f in later]
        if worst is not None:
            checks[checks.index(root)] = _borne_out(root, worst)
    said = {(f.cause, f.value) for f in checks if f.alarming and f.value is not None}
    # The same parameters, counted before the first step and behind it.
    return ranked([*checks, *(f for f in later if not (f.exact and (f.cause, f.value) in said))])


def looked_at(run: Run, made: int, left_out: Sequence[str], rules: Sequence[Rule] = RULES) -> Finding:
    """How many checks were `made`, and how many of the `rules` had something in `run` to judge by; the names
    of the checks `left_out` and of the other rules."""
    blind = [rule for rule in rules if not run.can_judge(rule)]
    return looks(made + len(rules) - len(blind), [*left_out, *map(_name, blind)])


def needs_probe(run: Run, rules: Sequence[Rule] = RULES) -> bool:
    """Whether the record is ambiguous: too little was learned or in small steps, and nothing explains it."""
    if not run.long_enough or not run.finite or any(finding.alarming for finding in run.checks):
        return False
    explained = any(finding.level == "fail" for rule in rules for finding in _judged(rule, run))
    doubtful = not run.learns or run.barely_learns or learning_rate.slow_but_learning(run)
    doubtful = doubtful or learning_rate.fallen_back(run)
    return doubtful and not explained


def _judged(rule: Rule, run: Run) -> list[Finding]:
    """What a rule finds; where it fails, it says so, and the others go on."""
    try:
        return list(rule(run))
    except Exception as error:
        return [Finding("skipped", "note", f"{_name(rule)}: {reason_of(error)}", where="diagnosis")]


def _name(rule: Rule) -> str:
    return str(getattr(rule, "verdict", "") or getattr(rule, "__name__", "a rule")).replace("_", " ")


def _takes_no_part(root: Finding, run: Run) -> bool:
    """Whether it names parameters on which nothing depends: the others learn as they would without them."""
    return root.cause == "frozen-parameters" and root.check == "wiring" and root.value == run.fact("idle")


def _borne_out(root: Finding, later: Finding) -> Finding:
    """What was feared before the first step has happened."""
    message = f"{root.message} It has come true in step {later.step}: {later.message}"
    return replace(root, level="fail", message=message, step=later.step, epoch=later.epoch)


def _follows(finding: Finding, root: Finding) -> Finding:
    """What shows while training is explained by what was wrong before."""
    if not finding.alarming or finding.exact or not CAUSES[finding.cause].symptom:
        return finding
    return consequence(finding, f"It may follow from {root.cause}.")


def _no_room(finding: Finding) -> Finding:
    """A network that cannot fit a few examples for its penalty is not too weak."""
    return replace(finding, level="note", message=f"{finding.message} It follows from a penalty too strong.")


def _meant(finding: Finding, run: Run) -> Finding:
    """Layers that were frozen at the start, and are so no longer, or in evaluation mode as well: that was
    meant."""
    seen = "They have been trained since." if run.has_moved(finding) else ""
    seen = seen or ("They are in evaluation mode, too." if run.is_kept(finding) else "")
    return replace(finding, level="note", message=f"{finding.message} {seen}", remedy="") if seen else finding


def _once(findings: list[Finding]) -> list[Finding]:
    """The alarms of each cause once, as it was first said."""
    alarmed: set[str] = set()
    kept = []
    for finding in findings:
        if not (finding.alarming and finding.cause in alarmed):
            kept.append(finding)
        if finding.alarming:
            alarmed.add(finding.cause)
    return kept


def _now(run: Run) -> tuple[int, float]:
    series = run.history.series("loss/train_step")
    return (series.steps[-1], round(series.epochs[-1], 4)) if len(series) else (0, 0.0)
