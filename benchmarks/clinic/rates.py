"""Twenty-four runs with a wrong learning rate, and what each was meant to be: a network, an optimizer and a
rate that suits them, and the same run at thirty times, a thousand times and a thousandth of it.

They are made to try remedies (`remedies.py`) on more than a handful of runs; that the rate is wrong is easily
seen in most, and some learn all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cases import conv_net, mlp, session, weights_of
from clinic import CaseBook, Classifier, Images, Session
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

CASES = CaseBook()


def tanh_net() -> nn.Sequential:
    net = mlp(128, 128, activation=nn.Tanh)
    for weight in weights_of(net):
        nn.init.xavier_uniform_(weight)
    return net


RUNS: dict[str, tuple[Callable[[], nn.Module], Callable, float]] = {
    "conv-adam": (conv_net, Adam, 2e-3),
    "conv-momentum": (conv_net, partial(SGD, momentum=0.9), 0.02),
    "conv-rmsprop": (conv_net, RMSprop, 1e-3),
    "norm-momentum": (partial(conv_net, norm=True), partial(SGD, momentum=0.9), 0.1),
    "norm-adamw": (partial(conv_net, norm=True), AdamW, 2e-3),
    "mlp-adam": (partial(mlp, 256, 128), Adam, 5e-4),
    "mlp-sgd": (partial(mlp, 256, 128), SGD, 0.1),
    "tanh-momentum": (tanh_net, partial(SGD, momentum=0.9), 0.005),
}
WRONG = {
    "30": (30.0, "learning-rate-too-high"),
    "1000": (1000.0, "learning-rate-too-high"),
    "thousandth": (1e-3, "learning-rate-too-low"),
}


def build(name: str, factor: float) -> Callable[[Images, bool], Session]:
    net, optimizer, rate = RUNS[name]

    def run(images: Images, fault: bool) -> Session:
        return session(Classifier(net(), partial(optimizer, lr=rate * factor if fault else rate)), images)

    return run


for name in RUNS:
    for word, (factor, cause) in WRONG.items():
        story = f"{name} at {factor:g} times a rate that suits it."
        CASES.sick(f"{name}-{word}", cause, story=story)(build(name, factor))
