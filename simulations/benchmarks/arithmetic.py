"""The lower bound: how long a round takes if there is nothing but forward, backward and optimiser.

    python -m benchmarks.arithmetic '{"model": "cnn"}'

On tensors in memory, batch by batch, in one thread; with explicit gradients where the model has them. Run in
simulations/; prints one line of JSON.
"""

import json
import statistics
import sys
from time import perf_counter

import torch
import torch.nn.functional as F

from benchmarks.workload import EMOTIONS, BenchmarkWorkload
from fedunlearn.examples import Examples
from fedunlearn.models import build_model
from fedunlearn.seeding import rng_for
from fedunlearn.training import sgd_step

_REPEATS = 5


def measure(workload: BenchmarkWorkload) -> dict[str, float]:
    """Measure how long one core takes for a round of all clients' training.

    Args:
        workload: the federation whose training is timed.

    Returns:
        {"round": the median of several measurements, s}
    """
    torch.set_num_threads(1)
    config = workload.config()
    local, rng = config.training.local, rng_for(0, "batches")
    model = build_model(config.model, len(EMOTIONS), rng)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    held, batch = workload.trained_on, local.batch_size
    sizes = [min(batch, held - start) for start in range(0, held, batch)] * workload.epochs
    frames = workload.frames(model)
    ready = [
        (
            torch.from_numpy(rng.standard_normal((size, frames, model.dims), dtype="float32")),
            torch.full((size,), frames),
            torch.from_numpy(rng.integers(0, len(EMOTIONS), size)),
        )
        for size in sizes
    ]

    everything = Examples(*(torch.cat(parts) for parts in zip(*ready[: -(-held // batch)], strict=True)))
    targets = F.one_hot(everything.labels, len(EMOTIONS)).float()
    places = [torch.arange(start, min(start + batch, held)) for start in range(0, held, batch)]

    def client() -> None:
        explicit = model.explicit_gradients(everything, torch.default_generator, in_span=True)
        if explicit is None:
            by_autograd()
            return
        weights, velocity = explicit.weights, torch.zeros_like(explicit.weights)
        for place in places * workload.epochs:
            explicit.loss(explicit.inputs[place], targets[place])
            sgd_step([weights], [velocity], [explicit.gradient], 1e-4, local.momentum)
        explicit.finish()

    def by_autograd() -> None:
        velocities = [torch.zeros_like(p) for p in trained]
        for features, lengths, labels in ready:
            loss = F.cross_entropy(model.classify(features, lengths), labels)
            sgd_step(trained, velocities, torch.autograd.grad(loss, trained), 1e-4, local.momentum)

    client()
    seconds = []
    for _ in range(_REPEATS):
        start = perf_counter()
        for _ in range(min(workload.clients, 20)):
            client()
        seconds.append((perf_counter() - start) / min(workload.clients, 20))
    return {"round": workload.clients * statistics.median(seconds)}


if __name__ == "__main__":
    print(json.dumps(measure(BenchmarkWorkload(**json.loads(sys.argv[1])))))
