"""What hooks of the parameters make of gradients."""

from __future__ import annotations

import pytest
from foreign import Foreign, look, mlp


@pytest.mark.parametrize(("least", "causes"), [(0.0, ["wrong-gradient"]), (-0.1, [])])
def test_hooks_that_let_gradients_of_one_sign_through_are_told(least: float, causes: list[str]) -> None:
    module = Foreign(mlp())
    hooks = [p.register_hook(lambda gradient: gradient.clamp(least, 1.0)) for p in module.parameters()]
    assert [finding.cause for finding in look(module)] == causes
    kept = [list(p._backward_hooks) for p in module.parameters()]
    assert kept == [[hook.id] for hook in hooks]


def test_one_parameter_that_is_only_to_fall_is_nobodys_mistake() -> None:
    module = Foreign(mlp())
    next(module.parameters()).register_hook(lambda gradient: gradient.clamp(min=0))
    assert look(module) == []
