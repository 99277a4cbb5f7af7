"""Linear probe of frozen features: ``python simulations/benchmarks/probe.py`` writes probe.json.

For each recogniser (``functionals``, or an encoder by folder or name) multinomial logistic regression is
fitted to its standardised features of an utterance: the functionals, or the means over time of all layers. It
is fitted centrally to the training utterances of all clients of a partition, and tested on the held-out
utterances of the same speakers (seen) and on the speakers that no client has (unseen). The penalty is chosen
by cross-validation within the training utterances, grouped by speaker. This is the linear probe of Alain &
Bengio 2017 (arXiv 1610.01644); nothing is federated and nothing is deleted.

Exit codes: 0 all was measured; 2 bad input; 3 interrupted.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fedunlearn.__main__ import start
from fedunlearn.cli.exit_codes import run_command, stopped_as_interrupt
from fedunlearn.config.fields import LARGEST, LARGEST_SEED
from fedunlearn.console import Screen, errors, say
from fedunlearn.errors import EXIT_OK, BadInput
from fedunlearn.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fedunlearn.audio import PCM
    from fedunlearn.corpora.utterance import Corpus
    from fedunlearn.models import EmotionModel
    from fedunlearn.partition import Partition

_BATCH = 16
"""Utterances from which features are computed at once."""
_INVERSE_PENALTIES = (0.01, 0.1, 1.0)
"""Values of C of scikit-learn's logistic regression among which is chosen."""
_FOLDS = 3
_STEPS = 300


@dataclass(frozen=True)
class Probe:
    """The accuracy of one recogniser's features on one corpus.

    Attributes:
        model: name of the recogniser, or folder of the encoder.
        corpus: name of the corpus.
        width: number of features of an utterance.
        seen: UAR on held-out utterances of client speakers, one for each partition.
        unseen: UAR on speakers that no client has, one for each partition.
    """

    model: str
    corpus: str
    width: int
    seen: tuple[float, ...]
    unseen: tuple[float, ...]


def probe(
    corpus: Annotated[list[str], typer.Option(metavar="NAME=PATH", help="A corpus. May be repeated.")],
    models: Annotated[
        str, typer.Option(help="By commas: functionals, folders of encoders, names of encoders.")
    ] = "functionals",
    partitions: Annotated[int, typer.Option(min=1, max=LARGEST, help="Number of partitions.")] = 5,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the first partition.")] = 1,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("probe.json"),
) -> None:
    """Measure how well emotions are told from frozen features by a linear classifier."""

    def command() -> int:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        names = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
        found = _probes(names, corpus, range(seed, seed + partitions), out)
        Screen().table(_table(found))
        say(f"Mean UAR of {partitions} partitions, with the 95 % interval of that mean (Student's t). {out}")
        return EXIT_OK

    raise SystemExit(run_command(command))


def _probes(names: list[str], speech: list[str], seeds: Sequence[int], out: Path) -> list[Probe]:
    # Heavy imports wait until the command is called.
    from fedunlearn.config import CorpusSettings
    from fedunlearn.config.model import ModelSettings
    from fedunlearn.config.partition import PartitionSettings
    from fedunlearn.corpora import load, recordings
    from fedunlearn.models import build_model, resolved
    from fedunlearn.partition import partition_corpus
    from fedunlearn.seeding import rng_for
    from result_tables.experiments import parse_speech

    if not names:
        raise BadInput("--models: name at least one model")
    settings = [resolved(ModelSettings(name=name)) for name in names]
    corpora = [load(CorpusSettings(name=s.name, path=s.path), 1) for s in parse_speech(speech, False)]
    found: list[Probe] = []
    for corpus in corpora:
        with stopped_as_interrupt(), errors.status(f"Reading {corpus.name}"):
            usable, sound = recordings(corpus, skip_bad=True)
        partitions = [partition_corpus(usable, PartitionSettings(), seed) for seed in seeds]
        for name, chosen in zip(names, settings, strict=True):
            with stopped_as_interrupt(), errors.status(f"{corpus.name}: {name}"):
                model = build_model(chosen, len(usable.emotions), rng_for(0, "template"))
                features = utterance_features(model, [sound[u.id] for u in usable.utterances])
                scores = [linear_probe(usable, features, partition) for partition in partitions]
            seen, unseen = zip(*scores, strict=True)
            found.append(Probe(name, corpus.name, features.shape[1], seen, unseen))
            write_atomically(out, json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return found


def utterance_features(model: "EmotionModel", sound: Sequence["PCM"]) -> "npt.NDArray[np.float32]":
    """Compute one vector of features of each utterance: [n, D].

    Args:
        model: a recogniser with one frame of features an utterance: functionals, or the means of a frozen
            encoder's layers.
        sound: int16 [S], 16 kHz.
    """
    import numpy as np
    import torch

    from fedunlearn.audio import pad, to_float

    order = sorted(range(len(sound)), key=lambda i: len(sound[i]))  # alike lengths in a batch: little padding
    rows: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(sound)
    with torch.no_grad():
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            features, _ = model.derive(*pad([to_float(sound[i]) for i in batch]))
            for i, row in zip(batch, features[:, 0].numpy(), strict=True):
                rows[i] = row
    return np.stack(rows)


def linear_probe(
    corpus: "Corpus", features: "npt.NDArray[np.float32]", partition: "Partition"
) -> tuple[float, float]:
    """Fit the classifier to the clients' training utterances.

    Args:
        corpus: the corpus.
        features: [n, D], in the order of its utterances.
        partition: of the same utterances.

    Returns:
        UAR on the held-out utterances of the same speakers, and on the unseen speakers.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    place = {u.id: i for i, u in enumerate(corpus.utterances)}
    labels = np.array([u.emotion for u in corpus.utterances])
    train, seen, unseen = (
        [place[u.id] for u in part] for part in (partition.train, partition.test, partition.unseen)
    )
    speakers = [u.speaker for u in partition.train]
    classifier = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=_STEPS)),
        {"logisticregression__C": _INVERSE_PENALTIES},
        scoring="balanced_accuracy",
        cv=GroupKFold(min(_FOLDS, len(set(speakers)))),
    )
    with warnings.catch_warnings():
        # The solver stops after _STEPS steps, which is near enough.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        classifier.fit(features[train], labels[train], groups=speakers)
    return tuple(  # type: ignore[return-value]
        float(balanced_accuracy_score(labels[part], classifier.predict(features[part])))
        for part in (seen, unseen)
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval, after Student's t; 0 for one value.

    Args:
        values: one for each partition.
    """
    import numpy as np
    from scipy.stats import t

    if len(values) == 1:
        return values[0], 0.0
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * error


def _table(found: Sequence[Probe]) -> Table:
    table = Table(title="Linear probe")
    for name in ("corpus", "features", "number", "UAR, seen speakers", "UAR, unseen speakers"):
        table.add_column(name, justify="left" if name in {"corpus", "features"} else "right")
    for row in found:
        scores = (f"{mean:.3f} ± {half:.3f}" for mean, half in map(mean_interval, (row.seen, row.unseen)))
        table.add_row(row.corpus, row.model, str(row.width), *scores)
    return table


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(probe)
    start(app)
