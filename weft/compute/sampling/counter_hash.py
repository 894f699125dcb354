"""Random numbers without state: a hash of (seed, output position), the same on every rank, in every batch, after any
pause."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits for output token `position` of a request with `seed` (its low 64 bits).

    Two rounds of splitmix64: the state after `position` + 1 steps from a start that is itself the mixed seed, so that
    neighbouring seeds give unrelated sequences.
    """
    start = _mix((seed + _STEP) & _MASK)
    return (_mix((start + (position + 1) * _STEP) & _MASK) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
