"""A factor on a network's channels."""


def scaled(channels: int, width: float) -> int:
    """So many channels times ``width``, rounded to whole ones; one at least."""
    return max(1, round(channels * width))
