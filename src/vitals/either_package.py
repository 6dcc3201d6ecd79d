"""Lightning comes as two packages, `lightning` and `pytorch_lightning`, of the same code and with classes of
their own: a module, a trainer or a logger may be of either, whichever these callbacks derive from."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

Kind = TypeVar("Kind")


def either(*kinds: type[Kind]) -> tuple[type[Kind], ...]:
    """`kinds`, classes of `lightning`, and those of `pytorch_lightning` of the same names where it is in use,
    for `isinstance`."""
    return (*kinds, *(other for kind in kinds if (other := _other(kind)) is not None))


def is_own(method: str, instance: Any, kind: type[Any]) -> bool:
    """Whether `instance`, of the class `kind` of either package, has a `method` of its own."""
    parents: list[type] = [each for each in either(kind) if isinstance(instance, each)]
    return is_overridden(method, instance, parents[0] if parents else kind)


def _other(kind: type[Kind]) -> type[Kind] | None:
    if "pytorch_lightning" not in sys.modules:
        return None
    place = kind.__module__.replace("lightning.pytorch", "pytorch_lightning")
    try:
        module = import_module(place.replace("lightning.fabric", "lightning_fabric"))
    except ImportError:  # another version, which has none
        return None
    return getattr(module, kind.__name__, None)


if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:

    class Callback(*either(L.Callback)):
        """A callback for trainers of both packages: `pytorch_lightning` 2.5 turns away any but its own."""
