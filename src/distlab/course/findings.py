"""What a check of a lab found."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check: what was checked, the seconds that it took and may take, and what is wrong, if anything is."""

    what: str
    seconds: float = 0.0
    limit_s: float = math.inf
    problem: str = ""

    def __str__(self) -> str:
        said = [self.problem] if self.problem else []
        if self.late:
            said.append(f"takes longer than {self.limit_s:g} s")
        return f"{self.seconds:6.1f} s  {self.what}: {'; '.join(said) or 'as it should be'}"

    @property
    def late(self) -> bool:
        return self.seconds > self.limit_s
