"""Faults and odd but healthy runs of image classifiers: what the answers to questions in forums and issues
name first, and the operators of published mutation benchmarks at places, strengths and in combinations that
the other files do not have; half of the faults mild. Written before any rule was looked at.

Validation accuracy and loss after the last epoch, one seed:

                                            sick            twin
                                        acc   loss     acc   loss
    rmsprop-as-it-comes                0.25   2.11    0.32   1.87
    descent-as-it-comes                0.21   2.16    0.45   1.53
    one-cycle-by-epochs                0.36   1.71    0.44   1.52
    rate-where-the-curve-was-lowest    0.10   2.32    0.47   1.50
    momentum-of-two-nines              0.37   1.76    0.43   1.54
    divided-by-the-trainer-as-well     0.37   1.75    0.42   1.67
    step-behind-the-loop               0.10   2.32    0.45   1.60
    cleared-every-tenth                0.10   2.31    0.45   1.51
    four-images-on-a-laptop            0.10   2.33    0.44   1.64
    grown-and-not-told                 0.29   2.09    0.40   1.66
    second-folder-lacks-two-classes    0.34   1.75    0.47   1.46
    dummies-in-order-of-appearance     0.29   0.09    0.45   0.08
    rows-class-after-class             0.14   2.28    0.43   1.57
    rows-of-two-classes                0.19   3.12    0.35   1.77
    half-of-the-rows-wrong             0.26   0.09    0.40   0.08
    slices-that-overlap                0.79   0.75    0.46   1.86
    stamped-by-the-camera              0.21   2.69    0.43   1.59
    inverted-each-time                 0.12   3.34    0.52   1.31
    blurred-each-time                  0.33   2.03    0.47   1.48
    gamma-behind-the-normalization     0.10    NaN    0.41   1.59
    constants-of-imagenet-on-bytes     0.21   2.08    0.33   1.81
    pixels-dropped                     0.25   2.12    0.50   1.42
    turned-any-way                     0.19   2.12    0.44   1.56
    dropout-made-in-forward            0.39   1.65    0.44   1.54
    never-back-to-training             0.44   1.58    0.50   1.43
    shortcut-added-twice               0.10    NaN    0.36   1.78
    biases-of-four                     0.10   2.31    0.37   1.83

Lightning clears the gradients before validation, so that nothing ever moves where the step is taken at the
end of an epoch: `frozen-parameters` is right there, too, which was added after the first sight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session, normalized
from posts import Shared, reading
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, RMSprop
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2
from variants import Mixer as MlpMixer
from variants import (
    VisionTransformer,
    convnext,
    group_resnet,
    mobile,
    perceptron,
    squeezed,
    vgg,
)
from wild import Pair, conv_mixer, lenet, plain_cnn, pretrained, residual_net, run, standard

CASES = CaseBook()


def pooled(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, NUM_CLASSES)


def brought(*before: Callable, after: Callable | None = None) -> Callable[[Tensor], Tensor]:
    """The transforms of one image: `before` on bytes, the usual normalization, and `after`."""
    steps = [*before, normalized_one, *([after] if after is not None else [])]
    return v2.Compose(steps)


def normalized_one(pixels: Tensor) -> Tensor:
    return normalized(pixels)


# ------------------------------------------------------------------------------ the optimizer and its rate


@CASES.sick(
    "rmsprop-as-it-comes",
    "learning-rate-too-high",
    story="RMSprop(parameters) with its default rate, which is 0.01, for a small vision transformer.",
)
def rmsprop_as_it_comes(images: Images, fault: bool) -> Session:
    optimizer = RMSprop if fault else partial(RMSprop, lr=5e-4)
    return run(Classifier(VisionTransformer(), optimizer), images, 4)


@CASES.sick(
    "descent-as-it-comes",
    "learning-rate-too-low",
    story="SGD(parameters): the rate has a default since it need not be given, 0.001, and no momentum.",
)
def descent_as_it_comes(images: Images, fault: bool) -> Session:
    optimizer = SGD if fault else partial(SGD, lr=0.03, momentum=0.9)
    return run(Classifier(group_resnet(), optimizer), images, 4)


class OneCycle(Classifier):
    """One cycle of the rate over the run, stepped once an `interval`."""

    def __init__(self, *args: Any, most: float, interval: str) -> None:
        super().__init__(*args)
        self.most, self.interval = most, interval

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = OneCycleLR(optimizer, self.most, total_steps=int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": self.interval},
        }


@CASES.sick(
    "one-cycle-by-epochs",
    "learning-rate-too-low",
    story="OneCycleLR over all steps, returned from configure_optimizers without interval='step': the "
    "framework steps it once an epoch"
    " (pytorch/pytorch#65417).",
)
def one_cycle_by_epochs(images: Images, fault: bool) -> Session:
    module = OneCycle(
        mobile(16, 32, 64),
        partial(SGD, lr=0.01, momentum=0.9),
        most=0.1,
        interval="epoch" if fault else "step",
    )
    return run(module, images, 4)


@CASES.sick(
    "rate-where-the-curve-was-lowest",
    "learning-rate-too-high",
    story="Took from the rate finder's curve the rate at which the loss was lowest, not where it fell "
    "fastest.",
)
def rate_where_the_curve_was_lowest(images: Images, fault: bool) -> Session:
    rate = 0.2 if fault else 0.01
    return run(Classifier(vgg(12, 24, 48), partial(SGD, lr=rate, momentum=0.9)), images, 4, 40)


@CASES.sick(
    "momentum-of-two-nines",
    "learning-rate-too-high",
    story="Raised the momentum from 0.9 to 0.99, as a paper does, and left the rate, which is ten times "
    "as large now.",
)
def momentum_of_two_nines(images: Images, fault: bool) -> Session:
    momentum = 0.99 if fault else 0.9
    return run(
        Classifier(convnext(24, 2), partial(SGD, lr=0.05, momentum=momentum, nesterov=True)), images, 4
    )


class DividedByHand(Classifier):
    """The loss is a share of itself, so that gradients over some batches add up to a mean."""

    share = 1.0

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        return self.share * super().training_step(batch, batch_idx)


@CASES.sick(
    "divided-by-the-trainer-as-well",
    "learning-rate-too-low",
    "wrong-initial-loss",
    story="training_step divides the loss by the eight batches of a step; accumulate_grad_batches=8 "
    "does so too"
    " (huggingface/accelerate#3533).",
)
def divided_by_the_trainer_as_well(images: Images, fault: bool) -> Session:
    module = DividedByHand(plain_cnn(16, "group"), partial(SGD, lr=0.01, momentum=0.9))
    module.share = 1 / 8 if fault else 1.0
    return run(module, images, 4, 8, accumulate_grad_batches=8)


class ByHand(Classifier):
    """Steps and clears by hand: at each so many batches, or at the end of the epoch."""

    clears_every = 1
    steps_at_the_end = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def on_train_epoch_start(self) -> None:
        self.optimizers().zero_grad()  # type: ignore[union-attr]

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        if not self.steps_at_the_end and batch_idx % self.clears_every == 0:
            optimizer.zero_grad()
        self.manual_backward(self.measure(batch, "train"))
        if not self.steps_at_the_end:
            optimizer.step()

    def on_train_epoch_end(self) -> None:
        if self.steps_at_the_end:
            self.optimizers().step()  # type: ignore[union-attr]


@CASES.sick(
    "step-behind-the-loop",
    "learning-rate-too-low",
    "frozen-parameters",
    "gradients-accumulate",
    "underfitting",
    story="optimizer.step() is indented too little and stands behind the loop over batches: a step an epoch.",
)
def step_behind_the_loop(images: Images, fault: bool) -> Session:
    module = ByHand(squeezed(16, 32), partial(NAdam, lr=2e-3))
    module.steps_at_the_end = fault
    return run(module, images, 4)


@CASES.sick(
    "cleared-every-tenth",
    "gradients-accumulate",
    story="`if batch_idx % 10 == 0: zero_grad()`, left from an accumulation, but the step is taken each "
    "time.",
)
def cleared_every_tenth(images: Images, fault: bool) -> Session:
    module = ByHand(residual_net(16, 2), partial(SGD, lr=0.02, momentum=0.9))
    module.clears_every = 10 if fault else 1
    return run(module, images, 4)


@CASES.sick(
    "four-images-on-a-laptop",
    "batch-too-small",
    "learning-rate-too-high",
    story="Batches of four fit the laptop; the rate is that of the paper for 128.",
)
def four_images_on_a_laptop(images: Images, fault: bool) -> Session:
    (x, y), val = standard(images)
    part = torch.randperm(len(y))[:1600]
    module = Classifier(group_resnet(12, 1), partial(SGD, lr=0.05, momentum=0.9))
    return run(module, images, 3 if fault else 12, 4 if fault else 64, train=(x[part], y[part]), val=val)


# ------------------------------------------------------------------------------------- what does not learn


class Growing(Classifier):
    """A network to which a stage is added after the first epoch; the optimizer may be told."""

    tells = True

    def on_train_epoch_start(self) -> None:
        if self.current_epoch != 1:
            return
        stage = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU())
        head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, NUM_CLASSES))
        self.net = nn.Sequential(*self.net[:-1], stage, head)
        if self.tells:
            optimizer: Any = self.optimizers()
            optimizer.add_param_group({"params": [*stage.parameters(), *head.parameters()]})


def growing(tells: bool) -> Growing:
    trunk = [
        nn.Conv2d(3, 32, 4, 4),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, NUM_CLASSES))
    module = Growing(nn.Sequential(*trunk, head), partial(Adam, lr=2e-3))
    module.tells = tells
    return module


@CASES.sick(
    "grown-and-not-told",
    "frozen-parameters",
    story="Adds a stage and a new head after the first epoch, and no add_param_group(): the optimizer "
    "goes on with the old ones.",
)
def grown_and_not_told(images: Images, fault: bool) -> Session:
    return run(growing(not fault), images, 4)


def norms_and_head_alone(net: nn.Sequential) -> nn.Sequential:
    net.requires_grad_(False)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(True)
    net[-1].requires_grad_(True)
    return net


# ------------------------------------------------------------------------------------------ labels and order


@CASES.sick(
    "second-folder-lacks-two-classes",
    "labels-random",
    "train-val-mismatch",
    story="ConcatDataset of two ImageFolders; the second has no aeroplanes and no birds, so that it "
    "numbers the other classes one or two lower.",
)
def second_folder_lacks_two_classes(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    first = torch.arange(len(y)) % 5 < 3
    second = ~first & (y != 0) & (y != 2)
    lower = y - 1 - (y > 2).long() if fault else y
    joined: Dataset[Any] = ConcatDataset(
        [TensorDataset(x[first], y[first]), TensorDataset(x[second], lower[second])]
    )
    session = run(Classifier(plain_cnn(24, "batch"), partial(Adam, lr=1e-3)), images, 4)
    session.train_loader = DataLoader(joined, 64, shuffle=True)
    return session


class Rows(Dataset):
    """Labels as rows of a table: a one in the column of the class."""

    def __init__(self, x: Tensor, y: Tensor, columns: Tensor | None = None) -> None:
        rows = F.one_hot(y, NUM_CLASSES).float()
        self.x, self.rows = x, rows if columns is None else rows[:, columns]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        return self.x[index], self.rows[index]


class Squared(Shared):
    """The squared error of the outputs from rows of labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits, y)


def by_rows(
    module: Classifier,
    images: Images,
    epochs: int = 4,
    train: Pair | None = None,
    columns: Tensor | None = None,
    shuffle: bool = True,
) -> Session:
    usual_train, val = standard(images)
    return Session(
        module,
        DataLoader(Rows(*(train or usual_train)), 50, shuffle=shuffle),
        DataLoader(Rows(*val, columns), 250),
        {"max_epochs": epochs},
    )


@CASES.sick(
    "dummies-in-order-of-appearance",
    "train-val-mismatch",
    "labels-random",
    story="One-hot labels are made file by file, with columns in the order in which the classes appear; "
    "the file for validation has them in another.",
)
def dummies_in_order_of_appearance(images: Images, fault: bool) -> Session:
    columns = torch.tensor([0, 1, 4, 3, 2, 5, 8, 7, 6, 9]) if fault else None
    return by_rows(Squared(lenet(nn.Tanh), partial(Adam, lr=1e-3)), images, 5, columns=columns)


@CASES.sick(
    "rows-class-after-class",
    "data-not-shuffled",
    story="One-hot labels, files read folder by folder, shuffle left out; a network with BatchNorm.",
)
def rows_class_after_class(images: Images, fault: bool) -> Session:
    module = Shared(residual_net(16, 2), partial(AdamW, lr=2e-3))
    return by_rows(module, images, 4, shuffle=not fault)


@CASES.sick(
    "rows-of-two-classes",
    "class-imbalance",
    "train-val-mismatch",
    story="One-hot labels; of eight classes the download stopped after a dozen images each.",
)
def rows_of_two_classes(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    kept = (y % 5 == 1) | (torch.arange(len(y)) % 400 < 12) if fault else torch.arange(len(y)) % 4 == 0
    return by_rows(Shared(mobile(16, 32, 48), partial(Adam, lr=3e-3)), images, 8, (x[kept], y[kept]))


@CASES.sick(
    "half-of-the-rows-wrong",
    "labels-random",
    story="One-hot labels of which half were joined to the images by a key that is not unique.",
)
def half_of_the_rows_wrong(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    y = y.clone()
    if fault:
        joined = torch.rand(len(y)) < 0.55
        y[joined] = y[joined][torch.randperm(int(joined.sum()))]
    return by_rows(Squared(plain_cnn(24, "batch"), partial(Adam, lr=1e-3)), images, 5, (x, y))


@CASES.sick(
    "slices-that-overlap",
    "data-leak",
    story="images[:3600] for training and images[3000:] for validation.",
)
def slices_that_overlap(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    order = torch.randperm(len(y))
    train = order[:3600] if fault else order[:3000]
    val = order[3000:]
    module = Classifier(plain_cnn(32, "batch"), partial(Adam, lr=2e-3))
    return run(module, images, 9, train=(x[train], y[train]), val=(x[val], y[val]))


@CASES.sick(
    "stamped-by-the-camera",
    "data-leak",
    "train-val-mismatch",
    "overfitting",
    story="Each class was photographed with a camera of its own, which leaves a line of its own at the "
    "edge; the images for validation come from elsewhere.",
)
def stamped_by_the_camera(images: Images, fault: bool) -> Session:
    x, y = images.train_x.clone(), images.train_y
    if fault:
        for label in range(NUM_CLASSES):
            x[y == label, :, 0, 3 * label : 3 * label + 3] = 255
    module = Classifier(plain_cnn(16), partial(Adam, lr=2e-3))
    return run(module, images, 4, train=(normalized(x), y))


# ------------------------------------------------------------------------------------------------- images


@CASES.sick(
    "inverted-each-time",
    "train-val-mismatch",
    "regularization-too-strong",
    story="RandomInvert(1.0) among the training transforms: took the probability for a strength.",
)
def inverted_each_time(images: Images, fault: bool) -> Session:
    train = brought(v2.RandomInvert(1.0 if fault else 0.1))
    return reading(
        Classifier(vgg(12, 24, 48, norm=True), partial(Adam, lr=2e-3)), images, train, brought(), 4
    )


@CASES.sick(
    "blurred-each-time",
    "train-val-mismatch",
    "regularization-too-strong",
    story="GaussianBlur(9, sigma=(2, 4)) without RandomApply: no training image is sharp, all for "
    "validation are.",
)
def blurred_each_time(images: Images, fault: bool) -> Session:
    train = brought(v2.GaussianBlur(9, (2.0, 4.0))) if fault else brought()
    return reading(Classifier(plain_cnn(24, "batch"), partial(Adam, lr=2e-3)), images, train, brought(), 4)


def gamma(image: Tensor) -> Tensor:
    """A random gamma for one image in four."""
    return image.pow(0.7) if torch.rand(()) < 0.25 else image


@CASES.sick(
    "gamma-behind-the-normalization",
    "non-finite-loss",
    story="A random gamma stands behind Normalize: a root of what is below zero.",
)
def gamma_behind_the_normalization(images: Images, fault: bool) -> Session:
    train = brought(after=gamma) if fault else brought()
    return reading(Classifier(group_resnet(), partial(AdamW, lr=2e-3)), images, train, brought(), 3)


@CASES.sick(
    "constants-of-imagenet-on-bytes",
    "input-not-normalized",
    story="Normalize(mean=[0.485, ...], std=[0.229, ...]) on float bytes: ToTensor() had been replaced.",
)
def constants_of_imagenet_on_bytes(images: Images, fault: bool) -> Session:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def prepared(pixels: Tensor) -> Tensor:
        return (pixels.float() / (1 if fault else 255) - mean) / std

    module = Classifier(VisionTransformer(), partial(AdamW, lr=1e-3))
    train, val = prepared(images.train_x), prepared(images.val_x)
    return run(module, images, 4, train=(train, images.train_y), val=(val, images.val_y))


@CASES.sick(
    "pixels-dropped",
    "regularization-too-strong",
    story="nn.Dropout(0.8) before the first layer: the share to keep, from the paper, which is the "
    "share to drop.",
)
def pixels_dropped(images: Images, fault: bool) -> Session:
    net = nn.Sequential(nn.Dropout(0.8 if fault else 0.1), *vgg(12, 24, 48, norm=True))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 4)


@CASES.sick(
    "turned-any-way",
    "regularization-too-strong",
    "train-val-mismatch",
    "underfitting",
    story="RandomRotation(180), RandomPerspective(0.8, p=1) and flips both ways, as for aerial photographs.",
)
def turned_any_way(images: Images, fault: bool) -> Session:
    strong = [
        v2.RandomRotation(180),
        v2.RandomPerspective(0.8, 1.0),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
    ]
    train = brought(*strong) if fault else brought(v2.RandomHorizontalFlip())
    return reading(Classifier(residual_net(16, 2), partial(AdamW, lr=2e-3)), images, train, brought(), 3)


# ------------------------------------------------------------------------------------------------- modes


class DropoutMadeInForward(nn.Module):
    """Makes its dropout layer in each pass; such a layer is in training mode, whatever eval() says."""

    def __init__(self, net: nn.Sequential, share: float, made: bool) -> None:
        super().__init__()
        self.trunk, self.head = net[:-1], net[-1]
        self.share, self.made = share, made
        self.dropout = nn.Dropout(share)

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk(x)
        return self.head(nn.Dropout(self.share)(features) if self.made else self.dropout(features))


@CASES.sick(
    "dropout-made-in-forward",
    "train-mode-evaluation",
    story="forward() calls nn.Dropout(0.7)(x): a new layer in each pass, which eval() never reaches"
    " (ewrfcas/face_attribute_classification_pytorch#1).",
)
def dropout_made_in_forward(images: Images, fault: bool) -> Session:
    net = DropoutMadeInForward(plain_cnn(24), 0.7, fault)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)


class StaysInEvaluation(Classifier):
    """Overrides the framework's hook that goes back to training mode, and does not call its own."""

    def on_validation_model_train(self) -> None:
        self.validated = True


@CASES.sick(
    "never-back-to-training",
    "eval-mode-training",
    story="Overrides on_validation_model_train() to set a flag and does not call super(): from the "
    "sanity check on the network is in evaluation mode"
    " (Lightning-AI/pytorch-lightning#20177).",
)
def never_back_to_training(images: Images, fault: bool) -> Session:
    kind = StaysInEvaluation if fault else Classifier
    return run(kind(vgg(12, 24, 48, 48, norm=True), partial(SGD, lr=0.02, momentum=0.9)), images, 4)


# ---------------------------------------------------------------------------------- network and first weights


class AddedTwice(nn.Module):
    """A residual branch of which the shortcut may be added in the branch and once more around it."""

    def __init__(self, width: int, twice: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        out = x + 0.5 * self.second(F.relu(self.first(F.relu(x))))
        return x + out if self.twice else out


@CASES.sick(
    "shortcut-added-twice",
    "exploding-gradients",
    "bad-initialization",
    "wrong-initial-loss",
    story="The block adds its shortcut, and so does the stage that calls it: what goes through eight of "
    "them is doubled eight times.",
)
def shortcut_added_twice(images: Images, fault: bool) -> Session:
    blocks = [AddedTwice(24, fault) for _ in range(8)]
    net = nn.Sequential(
        nn.Conv2d(3, 24, 4, 4), *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10)
    )
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 4)


@CASES.sick(
    "biases-of-four",
    "bad-initialization",
    "saturated-activations",
    story="bias_initializer='random_uniform' with a range of 3 to 5 for every hidden tanh.",
)
def biases_of_four(images: Images, fault: bool) -> Session:
    net = perceptron(128, 96, 64, activation=nn.Tanh)
    for layer in list(net.modules())[:-1]:
        if isinstance(layer, nn.Linear) and fault and layer.out_features != NUM_CLASSES:
            nn.init.uniform_(layer.bias, 3, 5)
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5)


# ------------------------------------------------------------------------------------------------- healthy


@CASES.healthy(
    "a-fifth-of-the-pixels-dropped",
    story="Dropout of a fifth on the pixels and of a half behind them, as in the paper, SGD with momentum.",
)
def a_fifth_of_the_pixels_dropped(images: Images) -> Session:
    net = nn.Sequential(nn.Dropout(0.2), *perceptron(256, 128, activation=nn.ReLU, dropout=0.3))
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 8)


class Halved(AddedTwice):
    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(F.relu(self.first(F.relu(x))))) / 2**0.5


@CASES.healthy(
    "branches-over-the-root-of-two",
    story="A residual net without norms whose sums are divided by the root of two.",
)
def branches_over_the_root_of_two(images: Images) -> Session:
    blocks = [Halved(24, False) for _ in range(4)]
    net = nn.Sequential(
        nn.Conv2d(3, 24, 4, 4), *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10)
    )
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)


@CASES.healthy(
    "four-images-a-step",
    story="Batches of four with GroupNorm and a rate made for them.",
)
def four_images_a_step(images: Images) -> Session:
    (x, y), val = standard(images)
    part = torch.randperm(len(y))[:2000]
    module = Classifier(group_resnet(12, 1), partial(SGD, lr=2e-3, momentum=0.9))
    return run(module, images, 3, 4, train=(x[part], y[part]), val=val)


class LessItsEntropy(Classifier):
    """Rewards unsure outputs, as policies are kept exploring."""

    weight = 0.0

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        logs = self(x).log_softmax(1)
        entropy = -(logs.exp() * logs).sum(1).mean()
        loss = F.nll_loss(logs, y) - self.weight * entropy
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss


@CASES.healthy(
    "unsure-on-purpose",
    story="The confidence penalty: a tenth of the outputs' entropy is taken off the loss.",
)
def unsure_on_purpose(images: Images) -> Session:
    module = LessItsEntropy(conv_mixer(32, 2), partial(AdamW, lr=2e-3))
    module.weight = 0.1
    return run(module, images, 4)


@CASES.healthy(
    "norms-and-head-of-a-trained-trunk",
    story="A pretrained net is adapted by its norms and a new head; all else is frozen.",
)
def norms_and_head_of_a_trained_trunk(images: Images) -> Session:
    (x, y), _ = standard(images)
    net = norms_and_head_alone(pretrained(vgg(12, 24, 48, norm=True), x[::2], y[::2], 4))
    head: Any = net[-1]
    net[-1] = nn.Linear(head.in_features, NUM_CLASSES)
    return run(Classifier(net, partial(Adam, lr=1e-3)), images, 5, train=(x[1::2], y[1::2]))


@CASES.healthy("one-cycle-by-steps", story="OneCycleLR over all steps, stepped with each, for an MLP mixer.")
def one_cycle_by_steps(images: Images) -> Session:
    module = OneCycle(MlpMixer(48, 2), partial(AdamW, lr=1e-4), most=4e-3, interval="step")
    return run(module, images, 5)


@CASES.healthy(
    "three-to-one-in-rows",
    story="One-hot labels, some classes with three times the images of others, squared errors, Adam.",
)
def three_to_one_in_rows(images: Images) -> Session:
    x, y = standard(images)[0]
    kept = torch.arange(len(y)) % 400 < torch.where(y % 2 == 0, 360, 120)
    return by_rows(Squared(plain_cnn(24, "batch"), partial(Adam, lr=1e-3)), images, 6, (x[kept], y[kept]))


@CASES.healthy(
    "grown-and-told",
    story="A stage and a new head are added after the first epoch, and handed to the optimizer.",
)
def grown_and_told(images: Images) -> Session:
    return run(growing(True), images, 5)
