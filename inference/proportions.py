"""How sure a share is that was counted."""

import math


def wilson_interval(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson 1927), 95 % for the default `z`, within [0, 1]."""
    share = successes / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
