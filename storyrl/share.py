"""A share of some answers, such as "preferred 7 of 10", with the interval in which the true share may lie."""

import math
from dataclasses import dataclass

_Z = 1.959964  # 97.5 % point of the normal curve


@dataclass(frozen=True)
class Share:
    """`hits` of `count` answers; a tie may be half a hit."""

    hits: float
    count: int

    @property
    def rate(self) -> float:
        """The share, 0 to 1; 0.5 when nothing was asked."""
        return self.hits / self.count if self.count else 0.5

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % score interval of Wilson (1927) for a share; (0, 1) when nothing was asked.

        It stays within 0 and 1 and holds for few answers too (Agresti and Coull 1998). Ties as half hits vary less
        than the formula supposes, so with them the interval is rather too wide than too narrow.
        """
        if not self.count:
            return 0.0, 1.0
        n, p, z = self.count, self.rate, _Z
        centre = p + z * z / (2 * n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))
