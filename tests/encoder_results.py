"""Results of a run with a speech encoder."""

from typing import Any

from results_example import example_results
from results_measures import add_measures

SHA256 = "0123456789abcdef" * 4


def encoder_results(
    name: str = "facebook/wav2vec2-base", trains: str = "head", **model: Any
) -> dict[str, Any]:
    """A complete run of an encoder, with every measure."""
    results = add_measures(example_results())
    results["config"]["model"] = {"name": name, "encoder": {"trains": trains, "sha256": SHA256}}
    results["model"] = {
        "weights": "random" if name.startswith("random:") else "pre-trained",
        "parameters": 94_371_712,
        "travels": 231_432,
        "kind": "wav2vec2",
        "sha256": SHA256,
        "trains": trains,
    } | model
    results["unlearning"] = {
        "method": "l2ul",
        "sees": "forget",
        "source": "L2UL-style, after Ren et al. 2025",
    }
    results["traces"] = {"windows": 31, "found": []}
    return results
