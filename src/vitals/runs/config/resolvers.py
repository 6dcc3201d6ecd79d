"""What our config groups compute. Registered with our Hydra plugin too, so that other applications which have
`pkg://vitals.configs` on their search path can compose them."""

from omegaconf import OmegaConf


def epochs_unless(epochs: int, steps: int, time: object) -> int:
    """`epochs`, or -1 for no such end where steps or the clock are to end the training."""
    return epochs if steps == -1 and time is None else -1


def half_precision() -> str:
    """See `vitals.runs.config.trainer_arguments.half_precision`, which is imported when it is asked."""
    from vitals.runs.config.trainer_arguments import half_precision

    return half_precision()


OmegaConf.register_new_resolver("epochs_unless", epochs_unless, replace=True)
OmegaConf.register_new_resolver("half_precision", half_precision, replace=True)
