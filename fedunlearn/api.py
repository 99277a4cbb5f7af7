"""The functions that a Python program calls: load a config, run it, compare methods.

They do what the commands ``run`` and ``compare`` do, and print nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fedunlearn import config as configuration
from fedunlearn.config import Config, StudySettings
from fedunlearn.config.presets import find_config
from fedunlearn.dotted import dotted_values
from fedunlearn.results_schema import Results
from fedunlearn.study.grid import Axes, Variant, comparison_config, variant_of
from fedunlearn.study.plan import own_variants, study_of

if TYPE_CHECKING:
    from fedunlearn.study.compare import Comparison

SHORT_KEYS: Mapping[str, str] = {
    "aggregation": "unlearning.aggregation",
    "clients": "partition.clients",
    "corpus": "corpus.name",
    "data": "corpus.path",
    "engine": "federation.engine",
    "method": "unlearning.method",
    "model": "model.name",
    "rounds": "training.rounds",
}
"""Override -> the key that it stands for, as in the options of ``fedunlearn run``."""


def load_config(source: str | Path | None = None, /, **overrides: Any) -> Config:
    """Read an experiment, and change some of its settings.

    >>> config = load_config("ravdess", clients=4, seed=2, **{"training.rounds": 3})  # doctest: +SKIP

    Args:
        source: a TOML file, or the name of a preset such as "ravdess"; None = generated speech.
        overrides: values by key. A key is dotted, as in ``**{"unlearning.l2ul.lr": 0.02}``, or one of
            ``SHORT_KEYS``: clients, rounds, method, aggregation, model, corpus, data, engine; or seed. A
            section's name takes a mapping, whose keys are merged into the section.

    Returns:
        the experiment, validated. References to files of your own have become absolute paths.

    Raises:
        BadInput: no such file or preset; or settings that will not do: every one of them, one line each.
    """
    return configuration.load(None if source is None else find_config(source), _dotted(overrides))


def _dotted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides as keyword arguments -> dotted keys to values."""
    placed: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            placed |= {name: _plain(inner) for name, inner in dotted_values(value, f"{key}.")}
        else:
            placed[SHORT_KEYS.get(key, key)] = _plain(value)
    return placed


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def run(
    config: Config,
    out: str | Path,
    *,
    cache: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = False,
) -> Results:
    """Run an experiment to its end.

    >>> results = run(load_config("synthetic", clients=8), out="runs/first")  # doctest: +SKIP
    >>> results.gap["recovered"].mean  # doctest: +SKIP

    Args:
        config: from ``load_config``.
        out: the run folder; it is made, and must not exist yet. Afterwards it holds results.json,
            report.html, checkpoints, the clients' vaults and, of a speech encoder, the final model.
        cache: folder of trained references, which other runs find again; None = references/ beside ``out``.
        resume: continue the run in ``out`` from where it stands; ``config`` must be the one it was made with.
        show_progress: draw progress bars on the terminal.

    Returns:
        the results. ``results.status`` is "complete" or, where a deletion request is unfulfilled, says so;
        ``results.failure`` says why.

    Raises:
        BadInput: the settings, the corpus or ``out`` will not do; nothing was trained.
        RunFailed: the run could not be completed; what it found until then is in ``out``/results.json.
            ``Interrupted``, a kind of it, where Ctrl-C stopped it.
    """
    from fedunlearn.experiment.preparation import prepare
    from fedunlearn.experiment.progress import Progress
    from fedunlearn.run_folder import RunFolder
    from fedunlearn.whole_run import play_to_the_page

    folder = Path(out)
    if resume:
        RunFolder(folder).check_resumable()
    references = Path(cache) if cache is not None else folder.parent / "references"
    with Progress(Console(stderr=True, quiet=not show_progress)) as progress:
        experiment = prepare(config, folder, references, progress, resume=resume)
        play_to_the_page(experiment)
    return Results.read(folder)


def compare(
    source: str | Path | None = None,
    /,
    *,
    methods: Sequence[str | Variant] | None = None,
    out: str | Path,
    sizes: Sequence[int] | None = None,
    requesters: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    aggregations: Sequence[str] = (),
    recoveries: Sequence[str] = (),
    folds: Sequence[int] = (),
    **overrides: Any,
) -> "Comparison":
    """Compare unlearning methods: every combination of what is listed is a whole run.

    Finished runs are kept in ``out``: call it again to continue.

    >>> found = compare("ravdess", data="RAVDESS", methods=["calm", "none", "mine.py:mine"],
    ...                 seeds=range(3), out="runs/compare")  # doctest: +SKIP
    >>> print(found.summary)  # doctest: +SKIP
    >>> paper = compare("paper", data="RAVDESS", seeds=[1, 2, 3], out="runs/paper")  # doctest: +SKIP
    >>> [(claim.text, claim.verdict) for claim in paper.claims]  # doctest: +SKIP

    Args:
        source: the experiment to start from, as of ``load_config``.
        methods: names of methods, references to your own, or ``Variant`` objects: a method with settings.
            None = the study that the source describes in its section ``study``.
        out: folder for finished runs, compare.csv, compare.md, compare.tex, study.json and figures.
        sizes: utterances that each requester deletes; None = 10. Of a study with questions, the only ones of
            its sizes that are run; None = all.
        requesters: how many clients request a deletion, all at the same time; None = 1, or the study's.
        seeds: of partition, training and requesters; None = 0, or the study's.
        aggregations: how the requesters' updates are joined; empty = as the experiment has it.
        recoveries: names of ``study.grid.RECOVERIES``; empty = as the experiment has it.
        folds: of the corpus's protocol (``partition.fold``); empty = as the experiment has it.
        overrides: as of ``load_config``.

    Returns:
        rows, a summary in Markdown, decided claims, and which runs failed and why.

    Raises:
        BadInput: settings, corpus, partition or ``out`` do not allow a run; nothing was trained.
        Interrupted: Ctrl-C stopped it; finished runs are kept.
    """
    from fedunlearn.study.compare import run_study

    base = comparison_config(None if source is None else find_config(source), _dotted(overrides))
    own = base.study if methods is None else StudySettings(sizes=(10,), requesters=(1,), seeds=(0,))
    axes = Axes(
        variants=[
            *(m if isinstance(m, Variant) else variant_of(m) for m in methods or own.methods),
            *own_variants(own),
        ],
        sizes=list(own.sizes if sizes is None else sizes),
        requesters=list(own.requesters if requesters is None else requesters),
        seeds=list(own.seeds if seeds is None else seeds),
        aggregations=list(aggregations),
        recoveries=list(recoveries or own.recoveries),
        folds=list(folds),
        shadows=base.study.shadows,
    )
    return run_study(base, study_of(own, axes, sizes), Path(out))
