"""The tensors that a loss is a function of: the leaves of its graph."""

from torch import Tensor


def graph_leaves(loss: Tensor) -> list[Tensor]:
    """The tensors with `requires_grad` that `backward` on `loss` would give a gradient, each once.

    Read off the graph that autograd has recorded, without a backward pass. What a reentrant checkpoint or
    another function of its own hides in its backward is not seen.
    """
    found: dict[int, Tensor] = {}
    waiting, seen = [loss.grad_fn], set()
    if loss.grad_fn is None and loss.requires_grad:
        return [loss]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of AccumulateGrad alone
        if isinstance(leaf, Tensor):
            found[id(leaf)] = leaf
        waiting += [following for following, _ in node.next_functions]
    return list(found.values())
