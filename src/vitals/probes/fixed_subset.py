"""The same samples again and again, without augmentation and in evaluation mode."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vitals.errors import UserError
from vitals.measures.batch_norm import tracking_layers
from vitals.measures.fresh_draws import frozen_fresh_parts
from vitals.measures.linear_classifier import linear_classifier
from vitals.probes.class_numbers import IGNORED
from vitals.probes.loaders import (
    StreamOnly,
    is_even,
    random_batches,
    training_loader,
    twice,
    unaugmented,
    validation_loader,
)
from vitals.probes.narrow_layer import entering, narrow_layer
from vitals.probes.random_states import isolated_rng, seed_torch
from vitals.probes.rows import Rows, first_samples, joined, samples_in, with_row
from vitals.probes.stand_in import BatchPreparation, attach, stand_in
from vitals.probes.step_losses import only_loss, several, step_losses
from vitals.probes.training_step import TrainingStep
from vitals.probes.trial import constant_guess, switch_off_dropout
from vitals.probes.twin import Twin

MOST_BYTES = 2**26
"""Inputs are kept on the device as they are: 64 MiB are 5,000 images of CIFAR and 100 of ImageNet."""
MODE_SAMPLES = 256
"""Samples that are looked at in training mode, too."""
FEW = 8
"""Samples that are drawn two times."""
MOST_CLASSES = 1000
"""Classes of which the predictions are counted, each for each."""
NEIGHBOURS = ("next", "previous")
OF_CLASSES = (
    *("relabelled", "reweighed", "commonest", "unshown", "rare", "rare_right"),
    *NEIGHBOURS,
    *("onward", "second_next", "second_previous"),
)
"""What `FixedSubsets.evaluate` says of single classes."""
RARER = 5.0
"""Times less common than here that a class of the training subset is rare."""
EXPECTED = 10.0
"""Samples of a class whose absence is no accident: once in 20,000 looks."""
AT_ONCE = 250
"""Samples in one forward pass."""
BATCHES, FEWEST_BATCHES, SHIFTS = 16, 4, (1, 2)
"""Of validation, at most and at least, in which rows are exchanged, and by how many places."""
MATTERS = 1e-4
"""Share of the loss by which that must change somewhere, for a tensor to matter to it."""


class FixedSubsets:
    """Training samples, and validation samples, on which to see whether the network generalizes.

    Everything runs on a copy that shares the parameters: nothing is disturbed. Where the step calls one
    network with one tensor, what enters it is kept; else whole batches are, and the loss of the training
    step in evaluation mode is all that is measured.

    Args:
        twin: of the module that trains, whose trainer has its loaders set up.
        batch: a training batch.
        samples: of each subset, at most.

    Raises:
        NoLoss: if the step gives no loss for this batch.
        UserError: if step, batches or loaders cannot be looked at.
    """

    def __init__(self, twin: Twin, batch: Any, samples: int) -> None:
        self.twin, self.samples, trainer = twin, samples, twin.trainer
        self.twin.refresh()
        self.batch_size = max(samples_in(batch), 1)
        few = self.twin.few(batch, 8)
        with isolated_rng(seed=0), torch.enable_grad(), self.twin.as_in_training():
            self.evaluating = stand_in(trainer, training=False)
            attach(self.twin.module, self.evaluating)
            self.preparation = BatchPreparation(trainer, self.twin.module, self.evaluating)
            guides = frozen_fresh_parts(self.twin.module)
            called: set[nn.Module] = set()
            with ExitStack() as stack:
                for part in guides.values():
                    stack.callback(part.register_forward_pre_hook(lambda part, _: called.add(part)).remove)
                self.step = TrainingStep(self.twin.module, stand_in(trainer, training=True), few)
            self.grows: int | None = None
            """How the loss goes with the size of a batch, once one was seen."""
            self.guides = {name: part for name, part in guides.items() if part in called}
            """Frozen parts at fresh weights which the training step calls, by name."""
            if len(self.step.optimizers) > 1:
                raise UserError(f"{several(len(self.step.optimizers))}; one is needed here.")
            step = self.twin.module.training_step
            self.right: Tensor | None = None
            """Of the samples evaluated last, which had their class guessed; None but for class numbers."""
            self.as_they_are = self.shown_as_they_are = False
            """Whether the training subset is drawn evenly, and without random changes; and whether what is
            trained on is so, too."""
            try:
                own = training_loader(trainer)
                loader = unaugmented(own, validation_loader(trainer), samples)
                self.training = self._kept(
                    map(self.preparation, random_batches(loader, samples)), samples, step
                )
                self.as_they_are = is_even(trainer.train_dataloader) and self._stays(loader)
                # What the data set itself changes at random is taken out of the subset, not of batches.
                self.shown_as_they_are = self.as_they_are and (loader is own or self._stays(own))
            except StreamOnly:  # then the batch at hand must do
                self.training = self._kept([batch], samples, step)

    def _stays(self, loader: Any) -> bool:
        """Whether samples are the same when they are drawn once more, and enter the network as those of
        validation do: not smaller in the first epochs, for instance."""
        module = self.twin.module
        try:
            one, other = (list(map(self.preparation, each)) for each in twice(loader, FEW))
            first, second = (self._kept(each, FEW, module.training_step)[0] for each in (one, other))
            validated = self._kept(one, FEW, module.validation_step)[0]
        except Exception:  # a data set may want other places than numbers, a validation other batches
            return False
        return isinstance(first, Tensor) and torch.equal(first, second) and torch.equal(first, validated)

    @cached_property
    def validation(self) -> tuple[Any, Any] | None:
        """Validation inputs and targets, or batches and their sizes; None where there are none of the make of
        the training's."""
        loader = validation_loader(self.twin.trainer)
        if loader is None:
            return None
        with self._on_copy(gradients=True):
            try:
                prepared: Iterable[Any] = map(self.preparation, random_batches(loader, self.samples))
                if self.step.network is None:  # a loss of pairs is another in a larger batch
                    prepared = (first_samples(each, self.batch_size) for each in prepared)
                kept = self._kept(prepared, self.samples, self.twin.module.validation_step)
                return kept if _go_together(*kept) and self._has_places_for(kept) else None
            except UserError:  # validation batches may be of another make: then training alone is seen
                return None

    def _has_places_for(self, kept: tuple[Any, Any]) -> bool:
        """Whether the whole numbers that the training step gets of validation, as of classes, lie where those
        of training do: on a GPU one without a place, as in an embedding, ends the process, not the step."""
        ours, theirs = self._limits(self.training), self._limits(kept)
        classes = 0
        if self.step.network is not None and self.step.outputs is not None:
            classes = self.step.outputs.shape[1] if self.step.class_numbers else self.step.classes()
        return theirs.keys() <= ours.keys() and all(
            ours[place][0] <= low and high <= max(ours[place][1], classes - 1)
            for place, (low, high) in theirs.items()
        )

    def _limits(self, kept: tuple[Any, Any]) -> dict[int, tuple[int, int]]:
        """The least and the largest value of each row of whole numbers that the step gets beside what enters
        the network; what `IGNORED` stands for is left out."""
        inputs, targets = kept
        whole = targets if isinstance(targets, tuple) else (targets,)
        found: dict[int, tuple[int, int]] = {}
        for rows in map(self.step.rows.of, inputs) if self.step.network is None else [whole]:
            for place, row in enumerate(rows):
                if row.is_floating_point() or row.is_complex() or row.dtype == torch.bool:
                    continue
                known = row if self.step.network is None else row[row != IGNORED]
                if known.numel():
                    low, high = map(int, known.aminmax())
                    before = found.get(place, (low, high))
                    found[place] = min(before[0], low), max(before[1], high)
        return found

    def _kept(self, batches: Iterable[Any], samples: int, step: Callable[..., Any]) -> tuple[Any, Any]:
        """Inputs as they enter the network, and targets; or whole batches, and how many samples each has."""
        kept: list[Any] = []
        sizes: list[int] = []
        before, self.step.trainer = self.step.trainer, self.evaluating
        count = samples
        for prepared in batches:
            self.twin.module.eval()
            if self.step.network is None:
                kept.append(prepared)
                sizes.append(max(Rows(prepared).size, 1))
            else:
                try:
                    targets = self.step.targets(prepared)
                    inputs = self.step.network_inputs(prepared, step)
                except UserError:
                    if not kept:
                        raise
                    continue  # a last batch of one may be left out
                kept.append((inputs, *targets) if isinstance(targets, tuple) else (inputs, targets))
                sizes.append(len(inputs))
            tensors = [leaf for leaf in tree_leaves(kept[0]) if isinstance(leaf, Tensor)]
            each = sum(leaf.numel() * leaf.element_size() for leaf in tensors) / sizes[0]
            count = min(samples, max(1, int(MOST_BYTES / max(each, 1))))
            if sum(sizes) >= count:
                break
        self.step.trainer = before
        if not kept:
            raise UserError("a loader gives no batch.")
        if self.step.network is None:
            return kept, sizes
        first, *rest = (each[:count] for each in joined(kept))
        if self.step.class_numbers and bool((labelled := rest[0] != IGNORED).any()):
            return first[labelled], rest[0][labelled]  # of the others nothing is right, nor wrong
        return first, rest[0] if len(rest) == 1 else tuple(rest)

    @contextmanager
    def _on_copy(self, gradients: bool = False) -> Iterator[None]:
        """Inside the block the copy is as its original is now, and asks as in validation."""
        self.twin.refresh()
        attach(self.twin.module, self.evaluating)
        with isolated_rng(seed=0), torch.set_grad_enabled(gradients), self.twin.as_in_training():
            yield

    def entering(self, batch: Any) -> tuple[Any, Any]:
        """What enters the network of a training batch, and its targets."""
        with self._on_copy(gradients=True):
            return self._kept([batch], self.samples, self.twin.module.training_step)

    def entering_training(self) -> Tensor | None:
        """A few inputs as the training has them; the subset may be prepared as validation is."""
        given = [argument for call in self.step.calls for argument in call.arguments]
        shape = getattr(self.training[0], "shape", ())[1:]
        return next((each for each in given if isinstance(each, Tensor) and each.shape[1:] == shape), None)

    def which_right(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Which samples (n,) of class numbers the present weights have right, in evaluation mode."""
        network = self.step.network
        assert network is not None
        with self._on_copy():
            network.eval()
            return network(inputs).argmax(dim=1) == targets

    def facts(self) -> dict[str, float]:
        """What guessing gives, `chance_loss` in nats and `chance_accuracy` for class numbers, and for others
        `guess_loss`, that of the best outputs that are the same for all samples, `answers`, the numbers that
        a sample's target has, or, where it is in no batch, its outputs, `places` that have a class each, as
        the pixels of a mask, and the share of places that are `unlabelled`, below zero; how many samples the
        training subset has, and `train_as_is`, whether it was drawn evenly and never changes."""
        inputs, labels = self.training
        found = {"train_subset": float(len(inputs) if isinstance(inputs, Tensor) else sum(labels))}
        found["train_as_is"] = float(self.as_they_are)
        if self.step.class_numbers:
            shares = torch.bincount(labels.clamp_min(0)).cpu().double() / len(labels)
            found["chance_loss"] = float(torch.special.entr(shares).sum())
            found["chance_accuracy"] = float(shares.max())
        else:
            found |= self.guess(labels)
            rows = labels if isinstance(labels, tuple) else (labels,)
            answers = [each[0].numel() for each in rows or (self.step.outputs,) if isinstance(each, Tensor)]
            if answers:
                found["answers"] = float(max(answers))
            if isinstance(labels, Tensor) and not labels.is_floating_point():
                found["unlabelled"] = float((labels < 0).float().mean())
                if inputs.is_floating_point():
                    found["places"] = float(labels[0].numel())
        return found

    def guess(self, targets: Any) -> dict[str, float]:
        """Of targets that are no class numbers, `guess_loss`, and `target_mean` and `target_sd` where there
        is one for each output."""
        if not isinstance(targets, Tensor) or self.step.outputs is None:
            return {}
        found: dict[str, float] = {}
        outputs = self.step.outputs.mean(dim=0).expand(len(targets), *self.step.outputs.shape[1:])
        with isolated_rng(seed=0), suppress(UserError):
            found["guess_loss"] = constant_guess(self._loss, outputs, targets, self.step.classes())
        if targets.is_floating_point() and targets.numel() == outputs.numel():
            found |= {"target_mean": float(targets.mean()), "target_sd": float(targets.std())}
        return found

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of batches as the training has them: pairs or triplets of more samples cost far more,
        and give another loss."""
        whole = max(len(outputs) // self.batch_size, 1) * self.batch_size
        parts = (each[:whole].split(self.batch_size) for each in (outputs, targets))
        return torch.stack([self.step.loss(*pair) for pair in zip(*parts, strict=True)]).mean()

    def evaluate(self, inputs: Any, targets: Any) -> dict[str, float]:
        """Loss, and for class numbers `accuracy` and `OF_CLASSES`, of the present weights in evaluation mode;
        no loss where it draws random numbers then, as one that mixes labels does whatever the outputs are of.

        `relabelled` is the accuracy that there would be if each class that is predicted were called what it
        most often is, `reweighed` the one if classes were as common as in the training subset; NaN where one
        of them is missing. `commonest` is the share of the samples that are of the commonest class, `unshown`
        that of classes which the training subset lacks, though it would have `EXPECTED` samples of them were
        they as common there; `rare` that of classes which are `RARER` times less common there, and
        `rare_right` how much of all is of them and right; `next` and `previous` the shares that are given the
        number of the class after their own, or before it, the first of all being after the last, `onward`
        that of the classes in which the former are more; `second_next` and `second_previous` those that are
        given the number after the next.

        Args:
            inputs, targets: one of the subsets, `training` or `validation`.
        """
        with self._on_copy():
            if self.step.network is None:
                return self._of_batches(inputs, targets)
            return self._of_network(inputs, targets)

    def by_batch_statistics(self, right: Tensor) -> dict[str, float]:
        """Accuracies on the same training samples, `of_batches`, with the statistics of batches as large as
        in training but without dropout, and `evaluated`, in evaluation mode, of which `right` has all; none
        but for class numbers and a network whose BatchNorm layers keep statistics while it trains."""
        network = self.step.network
        if network is None or not self.step.class_numbers:
            return {}
        inputs, targets = self.training
        count = min(len(targets), max(MODE_SAMPLES, self.batch_size)) // self.batch_size * self.batch_size
        with self._on_copy():
            if not count or not tracking_layers(network):
                return {}
            switch_off_dropout(network)
            outputs = torch.cat([network(part) for part in inputs[:count].split(self.batch_size)])
        of_batches = outputs.argmax(dim=1) == targets[:count]
        shares = torch.stack([of_batches.float().mean(), right[:count].float().mean()]).tolist()
        return {"of_batches": shares[0], "evaluated": shares[1], "samples": float(count)}

    def of_guides(self) -> dict[str, float]:
        """`guide/<name>`, the accuracy on the training subset of each of `guides` that is as fresh as before
        and gives as many numbers as there are classes, and `guides/even_share`, that of an even guess; where
        the step calls more than one network. `guides/asked` says how many there are."""
        asked = {"guides/asked": float(len(self.guides))}
        if not self.guides:
            return asked
        if self.step.network is not None:
            return {}
        given: dict[str, Tensor] = {}
        right: dict[str, list[Tensor]] = {}
        classes: dict[str, int] = {}
        labelled = 0

        def keep(name: str, part: nn.Module, arguments: Any, output: Any) -> None:
            given[name] = output

        batches, _ = self.training
        with self._on_copy(), ExitStack() as stack:
            self.twin.module.eval()
            for name, part in frozen_fresh_parts(self.twin.module).items():
                if name in self.guides:
                    stack.callback(part.register_forward_hook(partial(keep, name)).remove)
            for batch in batches:
                step_losses(self.twin.module, self.evaluating, batch)
                whole = [
                    row for row in self.step.rows.of(batch) if row.ndim == 1 and not row.is_floating_point()
                ]
                for name, outputs in given.items():
                    labels = [row for row in whole if outputs.ndim == 2 and len(row) == len(outputs)]
                    if len(labels) == 1:
                        classes[name], labelled = outputs.shape[1], max(labelled, int(labels[0].max()) + 1)
                        right.setdefault(name, []).append(outputs.argmax(1) == labels[0])
        found = {
            f"guide/{name}": float(torch.cat(each).float().mean())
            for name, each in right.items()
            if classes[name] == labelled  # others give features, as a random network does that is distilled
        }
        return asked | found | ({"guides/even_share": 1 / labelled} if found else {})

    def before_narrow_layer(self) -> dict[str, float]:
        """`narrow/layers`, 1 or 0, and of a network with a narrow layer: `narrow_layer/<name>`, its units,
        accuracies on validation, `narrow/linear` of a linear classifier of what enters it and
        `narrow/network`, and `narrow/score`, by how many standard errors the first is the higher."""
        network = self.step.network
        if network is None or not self.step.class_numbers or self.validation is None:
            return {}
        (inputs, labels), (new, targets) = self.training, self.validation
        with self._on_copy():
            network.eval()
            if (found := narrow_layer(network, inputs[:FEW])) is None:
                return {"narrow/layers": 0.0}
            layer, units = found
            shown, _ = entering(network, layer, inputs, AT_ONCE)
            given, outputs = entering(network, layer, new, AT_ONCE)
        if len(shown) != len(inputs) or len(given) != len(new):  # called more than once
            return {}
        linear = linear_classifier(shown, labels, given, outputs.shape[1]) == targets.cpu()
        reached = (outputs.argmax(1) == targets).cpu()
        apart = float((linear != reached).sum())  # of the same samples: what both know says nothing
        linear, reached = linear.float(), reached.float()
        score = float(linear.sum() - reached.sum()) / max(apart, 1.0) ** 0.5
        names = [name for name, module in self.twin.module.named_modules() if module is layer]
        measured = {"linear": float(linear.mean()), "network": float(reached.mean()), "score": score}
        measured = {f"narrow/{name}": value for name, value in measured.items()}
        return measured | {"narrow/layers": 1.0, f"narrow_layer/{names[0] if names else ''}": float(units)}

    def _of_batches(self, batches: list[Any], sizes: list[int]) -> dict[str, float]:
        self.twin.module.eval()
        try:
            losses = [
                only_loss(step_losses(self.twin.module, self.evaluating, batch)).float() * size
                for batch, size in zip(batches, sizes, strict=True)
            ]
        except UserError as error:  # as of torchvision's detectors
            raise UserError(
                "your training_step gives no loss in evaluation mode, in which samples would be seen."
            ) from error
        return {"loss": float(torch.stack(losses).sum()) / sum(sizes)}

    def _growth(self, loss: Tensor, outputs: Tensor, targets: Any) -> int:
        """1 where twice the samples cost twice as much, as in a sum over a batch that is divided by a number,
        -1 where they cost half of it, as in a mean that is divided once more; else 0, as in a mean."""
        single = isinstance(targets, Tensor)
        doubled = tuple(torch.cat([each, each]) for each in ([targets] if single else targets))
        both = self.step.loss(torch.cat([outputs, outputs]), doubled[0] if single else doubled)
        ratio = float(both) / (float(loss) or math.nan)
        return next((grows for grows in (1, -1) if math.isclose(ratio, 2.0**grows, rel_tol=1e-3)), 0)

    def exchanged(self) -> dict[str, float]:
        """By which share the loss on validation batches rises where one of the tensors that have a row for
        each sample gets those of other samples, `exchanged`, of the tensor by which it rises most, and its
        standard error, `exchanged_error`. Nothing where a network is known, where fewer than two tensors
        matter to the loss, as there is nothing to tell apart then, or with too few batches."""
        if self.step.network is not None or self.validation is None:
            return {}
        module, losses = self.twin.module, list[Tensor]()
        with self._on_copy(), suppress(UserError):
            module.eval()
            for batch in self.validation[0][:BATCHES]:
                rows = Rows(batch)
                parts = rows.of(batch)
                others = [
                    with_row(parts, place, part.roll(shift, 0))
                    for place, part in enumerate(parts)
                    for shift in SHIFTS
                ]
                values = []
                for changed in [parts, *others] if rows.size > len(SHIFTS) and len(parts) < BATCHES else []:
                    seed_torch(0)
                    values.append(
                        only_loss(step_losses(module, self.evaluating, rows.batch(changed))).float()
                    )
                losses.append(torch.stack(values or [torch.zeros(())]).cpu())
        if len({len(each) for each in losses}) != 1 or len(losses) < FEWEST_BATCHES or len(losses[0]) == 1:
            return {}
        level = float(torch.stack(losses)[:, 0].mean().abs())
        rises = torch.stack(losses)[:, 1:] - torch.stack(losses)[:, :1]
        rises = rises.unflatten(1, (-1, len(SHIFTS))).mean(2) / max(level, 1e-12)
        if int((rises.abs().amax(0) > MATTERS).sum()) < 2:
            return {}
        most = rises[:, int(rises.mean(0).argmax())]
        error = float(most.std()) / math.sqrt(len(most))
        return {"exchanged": float(most.mean()), "exchanged_error": error}

    def _of_network(self, inputs: Tensor, targets: Any) -> dict[str, float]:
        network = self.step.network
        assert network is not None
        network.eval()
        losses: list[Tensor] = []
        guessed: list[Tensor] = []
        random = False
        for place in range(0, len(inputs), AT_ONCE):
            part = slice(place, place + AT_ONCE)
            some = inputs[part]
            their = targets[part] if isinstance(targets, Tensor) else tuple(each[part] for each in targets)
            outputs = network(some)
            loss = self.step.loss(outputs, their).float()
            if self.grows is None:
                self.grows = self._growth(loss, outputs, their)
            losses.append(loss * (self.batch_size / len(some)) ** self.grows * len(some))
            if self.step.class_numbers:
                random = random or (not place and self.step.loss_is_random(outputs, their))
                guessed.append(outputs.argmax(dim=1))
        sums = {"loss": torch.stack(losses).sum()}
        if guessed:
            guesses = torch.cat(guessed)
            self.right = guesses == targets
            sums["accuracy"] = self.right.sum()
            if outputs.shape[1] <= MOST_CLASSES:
                sums |= self._of_classes(guesses, targets, outputs.shape[1])
        totals = torch.stack([each.float() for each in sums.values()]).tolist()
        found = {name: total / len(inputs) for name, total in zip(sums, totals, strict=True)}
        if random:
            del found["loss"]
        return found

    def _of_classes(self, guesses: Tensor, targets: Tensor, classes: int) -> dict[str, Tensor]:
        """The sums over the samples of all `OF_CLASSES`; see `evaluate`."""
        pairs = guesses * classes + targets.clamp(0, classes - 1)
        matrix = torch.bincount(pairs, minlength=classes**2).view(classes, classes)  # guess, target
        right, counts = matrix.diagonal(), matrix.sum(dim=0)
        shown = torch.bincount(self.training[1].clamp(0, classes - 1), minlength=classes)
        expected = counts * len(self.training[1]) / len(targets)
        rare = (RARER * shown < expected) & (expected >= EXPECTED)
        after, before, second_after, second_before = (
            matrix.roll(-offset, 0).diagonal() for offset in (1, -1, 2, -2)
        )
        return {
            "relabelled": matrix.amax(dim=1).sum(),
            "reweighed": len(targets) * reweighed(right, counts, shown),
            "commonest": counts.max(),
            "unshown": counts[(shown == 0) & (expected >= EXPECTED)].sum(),
            "rare": counts[rare].sum(),
            "rare_right": right[rare].sum(),
            "next": after.sum(),
            "previous": before.sum(),
            "onward": counts[after > before].sum(),
            "second_next": second_after.sum(),
            "second_previous": second_before.sum(),
        }


def reweighed(right: Tensor, of: Tensor, shares: Tensor) -> Tensor:
    """Accuracy, where of each class so many samples are `right` (C,), `of` (C,) so many, if classes were as
    common as `shares` (C,) are; NaN where one of these is missing."""
    return torch.where(shares > 0, shares * right / of, 0.0).sum() / shares.sum()


def _go_together(inputs: Any, targets: Any) -> bool:
    """Whether there are targets for each input: validation may cut a sample into windows, or into crops."""
    rows = targets if isinstance(targets, tuple) else (targets,)
    return all(len(row) == len(inputs) for row in rows)
