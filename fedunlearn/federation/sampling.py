"""Who is asked, where not everybody has to be."""

from collections.abc import Collection

from fedunlearn.seeding import rng_for


def some_of(clients: Collection[int], count: int, seed: int, what: str, clock: int) -> tuple[int, ...]:
    """So many of these clients, drawn at random, in order; all of them where ``count`` is 0 or is not less.

    Args:
        seed: of the experiment. what, clock: for what they are asked, and at which round of the clock.
    """
    there = sorted(clients)
    if not count or count >= len(there):
        return tuple(there)
    drawn = rng_for(seed, "asked", what, clock).choice(len(there), count, replace=False)
    return tuple(there[i] for i in sorted(drawn.tolist()))
