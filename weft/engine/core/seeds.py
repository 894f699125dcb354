"""Seeds of outputs: from the user's seed or the engine's, and the output's index. Pure functions."""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(*parts: int) -> int:
    """A number in [0, 2**63) that depends on every part and on their order."""
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


def output_seed(user_seed: int | None, engine_seed: int, admission: int, index: int) -> int:
    """Seed of output `index`; output 0 of a request with a seed has that very seed, whatever its `n`.

    Without a user's seed it follows from the engine's seed and the number of requests admitted before.
    """
    seed = derive_seed(engine_seed, admission) if user_seed is None else user_seed
    return seed if index == 0 else derive_seed(seed, index)
