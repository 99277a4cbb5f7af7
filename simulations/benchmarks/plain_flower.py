"""The same training written as in Flower's quickstart: the baseline of the benchmark.

    python -m benchmarks.plain_flower '{"clients": 20}'

Stock FedAvg on the stock simulation. The handler makes the model, loads its client's data from a file, wraps
them in a DataLoader, trains with torch's optimiser and sends the whole state back; one process a core. The
features are on disk, as they are in a vault. Run in simulations/; prints one line of JSON.
"""

import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workload import EMOTIONS, BenchmarkWorkload
from fedunlearn.config import LocalSettings
from fedunlearn.cpus import usable_cpus
from fedunlearn.models.functionals import FunctionalsModel
from fedunlearn.seeding import rng_for

_FEATURES = FunctionalsModel.dims


def network(hidden: int) -> nn.Module:
    """Build the trained part of the functionals model."""
    return nn.Sequential(nn.Linear(_FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, len(EMOTIONS)))


def make_client(hidden: int, local: LocalSettings, folder: Path) -> ClientApp:
    """Build the quickstart's ClientApp."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        model = network(hidden)
        weights = message.content["arrays"]
        assert isinstance(weights, ArrayRecord)
        model.load_state_dict(weights.to_torch_state_dict())
        data = np.load(folder / f"{context.node_config['partition-id']}.npz")
        dataset = TensorDataset(torch.from_numpy(data["features"]), torch.from_numpy(data["labels"]))
        loader = DataLoader(dataset, batch_size=local.batch_size, shuffle=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=local.lr, momentum=local.momentum)
        criterion = nn.CrossEntropyLoss()
        model.train()
        running = 0.0
        for _ in range(local.epochs):
            for features, labels in loader:
                optimizer.zero_grad()
                loss = criterion(model(features), labels)
                loss.backward()
                optimizer.step()
                running += loss.item()
        metrics = MetricRecord({"loss": running, "num-examples": len(dataset)})
        return Message(
            RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
        )

    return app


def measure(workload: BenchmarkWorkload, folder: Path) -> dict[str, float]:
    """Play it.

    Args:
        workload: of the functionals model.
        folder: for the clients' data.

    Returns:
        {"round": s, mean of all after the first}
    """
    local = workload.config().training.local
    for client in range(workload.clients):
        rng = rng_for(0, "data", client)
        features = rng.standard_normal((workload.trained_on, _FEATURES), dtype=np.float32)
        labels = rng.integers(0, len(EMOTIONS), workload.trained_on)
        np.savez(folder / f"{client}.npz", features=features, labels=labels)
    times: list[float] = []

    def round_is_over(_: int, __: ArrayRecord) -> None:
        times.append(time.perf_counter())

    server, everybody = ServerApp(), workload.clients

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=everybody, min_available_nodes=everybody)
        initial = ArrayRecord(network(workload.hidden).state_dict())
        strategy.start(
            grid=grid, initial_arrays=initial, num_rounds=workload.rounds, evaluate_fn=round_is_over
        )

    cores = workload.workers or usable_cpus()
    backend: Any = {
        "init_args": {
            "address": "local",
            "num_cpus": cores,
            "include_dashboard": False,
            "log_to_driver": False,
        },
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    client_app = make_client(workload.hidden, local, folder)
    run_simulation(server, client_app, everybody, backend_config=backend)
    # The strategy evaluates once before the first round, too.
    return {"round": (times[-1] - times[1]) / (len(times) - 2)}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="fedunlearn-") as temporary:
        sys.stdout = sys.stderr  # Flower prints
        found = measure(BenchmarkWorkload(**json.loads(sys.argv[1])), Path(temporary))
        print(json.dumps(found), file=sys.__stdout__, flush=True)
    os._exit(0)
