"""Shadow models with planted memories: half of the utterances in each."""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def halves(shadows: int, utterances: int, rng: np.random.Generator) -> Mask:
    """A random half of the utterances for each shadow."""
    return rng.permuted(np.tile(np.arange(utterances) % 2 == 0, (shadows, 1)), axis=1)


def planted(shadows: int, utterances: int, memory: float, rng: np.random.Generator) -> tuple[Matrix, Mask]:
    """phi of utterances of different difficulty and noise, of shadows of different quality.

    memory: nats by which phi of an utterance that was trained on is higher, on average over utterances.
    """
    inside = halves(shadows, utterances, rng)
    difficulty, noise = 2 * rng.standard_normal(utterances), rng.uniform(0.5, 1.5, utterances)
    kept = memory * rng.exponential(1.0, utterances)
    quality = 0.5 * rng.standard_normal((shadows, 1))
    return difficulty + quality + kept * inside + noise * rng.standard_normal(inside.shape), inside


def logits_of(phi: Matrix) -> npt.NDArray[np.float64]:
    """Two classes, the first one true: phi is the difference."""
    return np.stack([phi, np.zeros_like(phi)], -1)
