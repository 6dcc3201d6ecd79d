"""Between two measurements nobody reads a tensor, for which the host would have to wait on a GPU."""

from __future__ import annotations

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu import unwaiting_steps

WORDS = ["experiment=fast_gpu", "data=digits", "data.batch_size=8", "network.widths=[8,8]"]
WORDS += ["trainer.accelerator=cpu", "trainer.precision=32-true"]


class Unread(TorchDispatchMode):
    """Raises an error where the value of a tensor is asked for, but for an optimizer's count of steps, which
    lies on the host wherever the parameters are."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        reads = func is torch.ops.aten._local_scalar_dense.default
        if reads and not any(place.name == "_get_value" for place in traceback.extract_stack()):
            raise RuntimeError("a tensor is read")
        return func(*args, **(kwargs or {}))


def test_no_step_reads_a_tensor_between_two_measurements():
    # On a CPU, where that costs nothing, `NonFinite` reads the loss at once: on a GPU when it measures.
    assert unwaiting_steps([*WORDS, "~callbacks.non_finite"], Unread) >= 30
    with pytest.raises(SystemExit, match=r"your code fails with RuntimeError at .*a tensor is read"):
        unwaiting_steps(WORDS, Unread)
