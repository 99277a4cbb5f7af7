"""The floor: what a round would take if there were nothing but forward, backward and optimiser.

    python -m fedunlearn.study.speed.arithmetic '{"model": "cnn"}'

On tensors that lie ready, batch by batch, in one thread; prints one line of JSON.
"""

import json
import statistics
import sys
from time import perf_counter

import torch
import torch.nn.functional as F

from fedunlearn.models import build_model
from fedunlearn.seeding import rng_for
from fedunlearn.study.speed.world import EMOTIONS, BenchmarkWorkload
from fedunlearn.training import sgd_step

_REPEATS = 5


def measure(world: BenchmarkWorkload) -> dict[str, float]:
    """Seconds of one core for a round of all clients' training: the median of several.

    Returns:
        {"round": s}
    """
    torch.set_num_threads(1)
    config = world.config()
    local, rng = config.training.local, rng_for(0, "batches")
    model = build_model(config.model, len(EMOTIONS), rng)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    held, batch = world.trained_on, local.batch_size
    sizes = [min(batch, held - start) for start in range(0, held, batch)] * world.epochs
    frames = world.frames(model)
    ready = [
        (
            torch.from_numpy(rng.standard_normal((size, frames, model.dims), dtype="float32")),
            torch.full((size,), frames),
            torch.from_numpy(rng.integers(0, len(EMOTIONS), size)),
        )
        for size in sizes
    ]

    def client() -> None:
        velocities = [torch.zeros_like(p) for p in trained]
        for features, lengths, labels in ready:
            loss = F.cross_entropy(model.classify(features, lengths), labels)
            sgd_step(trained, velocities, torch.autograd.grad(loss, trained), 1e-4, local.momentum)

    client()
    seconds = []
    for _ in range(_REPEATS):
        start = perf_counter()
        for _ in range(min(world.clients, 20)):
            client()
        seconds.append((perf_counter() - start) / min(world.clients, 20))
    return {"round": world.clients * statistics.median(seconds)}


if __name__ == "__main__":
    print(json.dumps(measure(BenchmarkWorkload(**json.loads(sys.argv[1])))))
