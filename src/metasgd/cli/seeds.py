"""Which seeds there are."""

from lightning.fabric.utilities.seed import max_seed_value


def unfit_seed(seed: int, further: int = 0) -> list[str]:
    """The problem with ``seed_everything``, if it is no seed.

    Args:
        seed: as given.
        further: seeds after it that are used as well.
    """
    most = max_seed_value - further
    return [] if 0 <= seed <= most else [f"seed_everything is {seed}: a whole number from 0 to {most} is needed"]
