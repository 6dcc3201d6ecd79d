"""The tensors that a loss is a function of: the leaves of its graph."""

from torch import Tensor
from torch.autograd.graph import Node


def graph_leaves(loss: Tensor) -> list[Tensor]:
    """The tensors with `requires_grad` that `backward` on `loss` would give a gradient, each once, read off
    its graph; what a reentrant checkpoint hides in its backward is not seen."""
    if loss.grad_fn is None:
        return [loss] if loss.requires_grad else []
    # `variable` is an attribute of AccumulateGrad alone.
    leaves = (getattr(node, "variable", None) for node in graph_nodes(loss.grad_fn))
    return list({id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}.values())


def graph_nodes(*starts: Node) -> list[Node]:
    """`starts` and all nodes of the graph that a backward pass goes to from there, each once."""
    waiting, seen = list(starts), dict[Node, None]()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen[node] = None
        waiting += [following for following, _ in node.next_functions if following is not None]
    return list(seen)
