"""Whether this machine computes in 16 bits: `trainer.precision=${half_precision:}` in a configuration."""

from __future__ import annotations


def half_precision() -> str:
    """Lightning's word for the 16 bits that this machine is fast in, `bf16-mixed` or `16-mixed`; `32-true`
    where it is in none. A processor without instructions for bfloat16 would take several times as long."""
    import torch  # here: a command line is read without it

    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public words for it
    fast = any(getattr(torch.cpu, name, lambda: False)() for name in asked)
    return "bf16-mixed" if fast else "32-true"
