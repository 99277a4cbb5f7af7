"""Other tools follow a run where requested, show what it reports, and never interfere with it."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from command_line import call, small_file
from results_example import example_results

from fedunlearn.run_folder import RunFolder
from fedunlearn.tracking import TRACKERS, Follower, Tracker


class Notebook:
    """A tracker that records what it receives; raises where the test wants it to."""

    def __init__(self, config: str, fails_at: str = "") -> None:
        self.config, self.fails_at = config, fails_at
        self.rows: list[Mapping[str, Any]] = []
        self.results: list[Mapping[str, Any]] = []
        self.closed = 0

    def round(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))
        if self.fails_at == "round":
            raise OSError("no space\nleft")

    def finished(self, results: Mapping[str, Any]) -> None:
        self.results.append(results)
        if self.fails_at == "finished":
            raise ZeroDivisionError

    def close(self) -> None:
        self.closed += 1


class Shelf(list[Notebook]):
    """All notebooks that were begun. ``fails_at``: where they fail."""

    fails_at = ""


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """The tracker "notebook", as code outside of the package would add it."""
    kept, module = Shelf(), ModuleType("notebook_tracker")

    def open_notebook(run: RunFolder, config: str) -> Tracker:
        if kept.fails_at == "open":
            raise PermissionError("not yours")
        kept.append(Notebook(config, kept.fails_at))
        return kept[-1]

    vars(module).update(LIBRARY="json", INSTALL="pip install json", tracker=open_notebook)
    monkeypatch.setitem(sys.modules, "notebook_tracker", module)
    monkeypatch.setitem(TRACKERS, "notebook", "notebook_tracker")
    yield kept


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def begun(tmp_path: Path, *rounds: int) -> RunFolder:
    """A run folder with so many rounds played."""
    run = RunFolder(tmp_path)
    run.config.write_text("seed = 1\n")
    for number in rounds:
        run.append_metrics(row(number))
    return run


def row(number: int, phase: str = "learn", **more: Any) -> dict[str, Any]:
    fixed = {"round": number, "phase": phase, "loss": None, "refused": 0, "requests": []}
    return fixed | {"test_uar": 0.1 * number, "seconds": 1.5} | more


@pytest.mark.usefixtures("undrawn")
def test_a_run_reports_every_round_and_its_end_to_its_tracker(tmp_path: Path, notebooks: Shelf) -> None:
    out = tmp_path / "run"
    config = small_file(tmp_path, evaluation__retrained_seeds=1)
    code, output = call("run", "--config", config, "--out", out, "--track", "notebook")
    assert code == 0, output
    (book,) = notebooks
    assert book.rows == lines(out) and len(book.rows) > 6
    assert book.config == (out / "config.toml").read_text()
    assert json.loads(json.dumps(book.results)) == [json.loads((out / "results.json").read_text())]
    assert book.closed == 1
    code, output = call("run", "--resume", "--out", out, "--track", "notebook")
    assert code == 0, output
    assert notebooks[1].rows == lines(out), "resumed, all rounds are reported, each once"


@pytest.mark.parametrize(
    ("place", "reason"),
    [("open", "not yours"), ("round", "no space left"), ("finished", "ZeroDivisionError")],
)
def test_a_tracker_that_fails_is_one_warning(
    tmp_path: Path, notebooks: Shelf, place: str, reason: str
) -> None:
    notebooks.fails_at = place
    output: list[str] = []
    run = begun(tmp_path, 1)
    follower = Follower("notebook", run, output.append)
    for number in (2, 3):
        run.append_metrics(row(number))
    follower.finished(example_results())
    assert output == [f"--track notebook: failed, the run goes on without it ({reason})"]
    assert len(lines(tmp_path)) == 3


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_fails_reports_so(
    tmp_path: Path, notebooks: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedunlearn import whole_run
    from fedunlearn.errors import RunFailed

    def fail(experiment: Any) -> None:
        raise RunFailed("round 1: nobody answered")

    monkeypatch.setattr(whole_run, "play", fail)
    code, _ = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "run", "--track", "notebook")
    assert code == 3
    (book,) = notebooks
    assert book.results[0]["failure"].startswith("round 1: nobody answered") and book.closed == 1


@pytest.mark.parametrize(
    ("name", "library", "expected"),
    [
        (
            "crystal-ball",
            None,
            "--track crystal-ball: unknown; there is mlflow, notebook, tensorboard, wandb",
        ),
        ("notebook", "not_there", "--track notebook: No module named 'not_there'; run: pip install json"),
    ],
)
def test_what_cannot_be_tracked_is_reported_before_anything_starts(
    tmp_path: Path, notebooks: Shelf, name: str, library: str | None, expected: str
) -> None:
    vars(sys.modules["notebook_tracker"])["LIBRARY"] = library
    code, output = call("run", "--config", small_file(tmp_path), "--out", tmp_path / "run", "--track", name)
    assert (code, output.strip()) == (2, f"error: {expected}")
    assert not (tmp_path / "run").exists()


def test_without_the_extra_the_command_that_brings_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    arguments = ("run", "--config", small_file(tmp_path), "--out", tmp_path / "run")
    code, output = call(*arguments, "--track", "tensorboard")
    assert code == 2 and 'run: pip install -e ".[tracking]"' in output and output.count("\n") == 1


def test_nothing_is_imported_unless_asked_for() -> None:
    tools = ("tensorboard", "wandb", "mlflow")
    program = f"import sys, fedunlearn.cli; print([m for m in sys.modules for t in {tools} if t in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- TensorBoard -----------------------------------------------------------------------------------------


class Recorder:
    """In the place of torch's SummaryWriter: leaves a file, and keeps what is added."""

    made: ClassVar[list["Recorder"]] = []
    number = itertools.count()

    def __init__(self, log_dir: str) -> None:
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.file = folder.name, folder / f"events.out.tfevents.{next(self.number)}"
        self.file.touch()
        self.scalars: list[tuple[str, float, int]] = []
        self.texts: list[tuple[str, str, int]] = []
        self.closed = False
        self.made.append(self)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        self.texts.append((tag, text_string, global_step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Recorder]]:
    """Writers by the folder that they write to; called to look at those made since it was last called."""
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Recorder))

    def taken() -> dict[str, Recorder]:
        found = {writer.name: writer for writer in Recorder.made}
        assert len(found) == len(Recorder.made), "two writers of one folder"
        Recorder.made.clear()
        return found

    return taken


def play(run: RunFolder) -> None:
    """Two rounds of learning, an unlearn step, two trainings from scratch, the end."""
    follower = Follower("tensorboard", run, pytest.fail)
    steps = [(1, "learn"), (2, "learn"), (2, "unlearn"), (1, "retrain"), (2, "retrain"), (1, "retrain")]
    for number, phase in steps:
        run.append_metrics(row(number, phase, loss=0.5, requests=["r1"] if phase == "unlearn" else []))
    follower.finished(example_results())


def test_tensorboard_gets_rounds_measures_and_gaps(
    tmp_path: Path, recorders: Callable[[], dict[str, Recorder]]
) -> None:
    play(begun(tmp_path))
    made, results = recorders(), example_results()
    models = {"original", "unlearned", "recovered", "retrained", "destroy"}
    assert made.keys() == models | {"global", "retraining-1", "retraining-2"}
    assert all(writer.closed for writer in made.values())
    uar = [(value, step) for tag, value, step in made["global"].scalars if tag == "rounds/test_uar"]
    assert uar == [(0.1, 1), (0.2, 2), (0.2, 2)]
    assert [s for s in made["global"].scalars if s[0] == "rounds/requests"][-1] == ("rounds/requests", 1.0, 2)
    assert [s[2] for s in made["retraining-1"].scalars if s[0] == "rounds/loss"] == [1, 2]
    last = max(r["round"] for r in results["timeline"])
    recovered = made["recovered"].scalars
    assert ("models/forget_accuracy", 0.587, last) in recovered
    assert ("gap/mean", results["gap"]["recovered"]["mean"], last) in recovered
    assert not any("edges" in tag or tag.endswith("_n") for tag, _, _ in recovered)
    texts = {tag: text for tag, text, _ in made["global"].texts}
    assert texts == {"settings": "    seed = 1", "status": "    complete"}


def test_taken_up_tensorboard_has_every_step_once(
    tmp_path: Path, recorders: Callable[[], dict[str, Recorder]]
) -> None:
    run = begun(tmp_path)
    follower = Follower("tensorboard", run, pytest.fail)
    for number in (1, 2, 3):
        run.append_metrics(row(number))
    old = recorders()["global"]
    run.truncate_metrics(2)  # it was killed, and is resumed a round earlier
    again = Follower("tensorboard", run, pytest.fail)
    run.append_metrics(row(3))
    again.finished({"status": "failed", "failure": "round 4: nobody answered"})
    new = recorders()["global"]
    assert [s[2] for s in new.scalars if s[0] == "rounds/test_uar"] == [1, 2, 3]
    assert not old.file.exists() and new.file.exists()
    assert new.texts[-1][1] == "    failed: round 4: nobody answered"
    del follower


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    """With the tool itself, where it is installed."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = begun(tmp_path)
    play(run)
    again = Follower("tensorboard", run, pytest.fail)
    again.finished(example_results())
    read = EventAccumulator(str(tmp_path / "tensorboard" / "global"))
    read.Reload()
    assert [e.step for e in read.Scalars("rounds/test_uar")] == [1, 2, 2]


# ---- Weights & Biases, MLflow ----------------------------------------------------------------------------


SETTINGS = "seed = 1\n[training]\nrounds = 2\n"


def played(run: RunFolder, name: str, rounds: int = 3, results: Mapping[str, Any] | None = None) -> None:
    """So many rounds of learning, a retraining of one, and the end."""
    run.config.write_text(SETTINGS)
    follower = Follower(name, run, pytest.fail)
    for number in range(1, rounds + 1):
        run.append_metrics(row(number, loss=0.5))
    run.append_metrics(row(1, "retrain", loss=0.5))
    follower.finished(example_results() if results is None else results)


class WandbRun:
    """In the place of wandb's run: keeps what it is given."""

    def __init__(self, **options: Any) -> None:
        self.options, self.summary = options, dict[str, Any]()
        self.logged: list[dict[str, float]] = []
        self.axes: list[tuple[str, str | None]] = []
        self.ended: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.ended = exit_code


@pytest.fixture
def wandb_runs(monkeypatch: pytest.MonkeyPatch) -> list[WandbRun]:
    made: list[WandbRun] = []

    def init(**options: Any) -> WandbRun:
        made.append(WandbRun(**options))
        return made[-1]

    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(init=init, Settings=SimpleNamespace, teardown=lambda: None)
    )
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_wandb_is_offline_and_silent_unless_the_user_says_online(
    tmp_path: Path, wandb_runs: list[WandbRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "old").touch()
    played(begun(tmp_path), "wandb")
    run = wandb_runs[0]
    assert run.options["mode"] == "offline" and run.options["dir"] == str(tmp_path)
    quiet = vars(run.options["settings"])
    assert quiet["x_disable_machine_info"] and quiet["disable_git"] and quiet["console"] == "off"
    assert run.options["config"] == {"seed": 1, "training": {"rounds": 2}}
    assert not (tmp_path / "wandb" / "old").exists(), "what an earlier part of the run left is rewritten"
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    (tmp_path / "wandb").mkdir(exist_ok=True)
    (tmp_path / "wandb" / "mine").touch()
    monkeypatch.setenv("WANDB_MODE", "online")
    (tmp_path / "metrics.jsonl").unlink()
    played(begun(tmp_path), "wandb", results={"status": "failed", "failure": "round 3: nobody answered"})
    assert wandb_runs[1].options["mode"] == "online" and (tmp_path / "wandb" / "mine").exists()
    assert wandb_runs[1].ended == 1
    assert wandb_runs[1].summary == {"status": "failed: round 3: nobody answered"}


def test_wandb_gets_the_curves_of_tensorboard_each_on_its_models_rounds(
    tmp_path: Path, wandb_runs: list[WandbRun]
) -> None:
    played(begun(tmp_path), "wandb")
    (run,) = wandb_runs
    assert [entry["global/round"] for entry in run.logged[:3]] == [1, 2, 3]
    assert run.logged[1]["global/rounds/test_uar"] == 0.2 and run.logged[1]["global/rounds/loss"] == 0.5
    assert run.logged[3]["retraining-1/round"] == 1
    assert ("global/round", None) in run.axes and ("global/*", "global/round") in run.axes
    (final,) = [entry for entry in run.logged if "recovered/models/forget_accuracy" in entry]
    assert final["recovered/models/forget_accuracy"] == 0.587
    assert (run.ended, run.summary) == (0, {"status": "complete"})


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_wandb_itself_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tool itself, where it is installed."""
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    played(begun(tmp_path), "wandb")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for written in (b"global/rounds/test_uar", b"retraining-1/round", b"recovered/gap/mean", b"complete"):
        assert written in content


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("status", ["complete", "failed"])
def test_mlflow_itself_gets_the_curves_and_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """With the tool itself, where it is installed, and its store of files, as a user might name it."""
    mlflow = pytest.importorskip("mlflow")
    store = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    (tmp_path / "run").mkdir()
    played(begun(tmp_path / "run"), "mlflow", results=example_results() | {"status": status})
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true" and not (tmp_path / "run" / "mlflow").exists()
    client = mlflow.MlflowClient(store)
    (found,) = client.search_runs([client.get_experiment_by_name("fedunlearn").experiment_id])
    assert found.info.run_name == "run"
    assert found.info.status == ("FINISHED" if status == "complete" else "FAILED")
    assert found.data.params == {"seed": "1", "training.rounds": "2"}
    assert found.data.tags["status"].startswith(status)
    history = client.get_metric_history(found.info.run_id, "global/rounds/test_uar")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3))]
    assert found.data.metrics["recovered/models/forget_accuracy"] == 0.587


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_mlflow_itself_keeps_a_database_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run has every step once. Making the tables takes seconds."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = begun(tmp_path)
    played(run, "mlflow")
    run.truncate_metrics(1)
    played(run, "mlflow", rounds=1)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("fedunlearn").experiment_id])
    history = client.get_metric_history(found.info.run_id, "global/rounds/test_uar")
    assert [point.step for point in history] == [1, 1]
