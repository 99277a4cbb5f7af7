"""study.json as types: the numbers of a comparison, without speech, so that others can join them to theirs.

Nothing in it names a recording, a speaker or a folder. A study is one task (corpus, partition, model,
training and requests), some methods and some seeds; studies of the same task can be merged.

``python -m fedunlearn.study.study_file`` writes the file of the JSON schema anew.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedunlearn.errors import BadInput
from fedunlearn.files import write_atomically
from fedunlearn.inputs import looked_up, read_text
from fedunlearn.results_schema import Amount, Flag, Number, PositiveCount, Share, Text, Whole

SCHEMA: Final = "fedunlearn/study/1"
FAMILY = "fedunlearn/study/"
"""what the schema's name begins with, of whatever version"""
SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "study.schema.json"
FILE_NAME = "study.json"
_LINE_BY_LINE = ("contributors", "methods", "speech", "runs")

SharedName = Annotated[str, Field(strict=True, min_length=1, max_length=120, pattern=r"^[^/\\\n]*$")]
"""a name, which is never a path"""
SharedText = Annotated[str, Field(strict=True, pattern=r"^[^/\\]*$")]
"""words in which there is no path"""
Digest = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]
"""SHA-256"""
SettingValue = (
    Annotated[bool, Field(strict=True)]
    | Annotated[int, Field(strict=True)]
    | Annotated[float, Field(strict=True, allow_inf_nan=False)]
    | SharedText
    | None
)
SettingValues = dict[Text, SettingValue]
"""dotted keys of settings, and their values; a list is written as JSON"""


class StudyPart(BaseModel):
    """A part of study.json. Unknown fields are refused, so that nothing travels unseen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Contributor(StudyPart):
    """Who made runs, and with which software."""

    name: SharedName = Field(description="As chosen with `--contributor`.")
    versions: dict[Text, SharedName] = Field(description="Versions of Python and of libraries by name.")


class MethodEntry(StudyPart):
    """A method as a contributor ran it: one row of the tables."""

    contributor: SharedName = Field(description="Who ran it.")
    name: SharedName = Field(description="As tables show it.")
    method: SharedName = Field(description="Name of the method.")
    version: SharedName = Field(
        description="Version of fedunlearn; of a method of one's own, the SHA-256 of its file."
    )
    sees: Literal["forget", "forget + ticket", "retain", "history"] = Field(
        description="What it sees: the forget set, that with tickets, the retain sets, too, or the history."
    )
    control: Text = Field(description="Of a control, what it does in place of unlearning; else empty.")
    source: Text = Field(description="The publication that it is from.")
    changes: SharedText = Field(description="Settings that are the variant's own, as text.")
    settings: SettingValues = Field(description="All its settings, by dotted keys.")


class StudyCorpus(StudyPart):
    """The corpus of a task."""

    name: SharedName = Field(description="Name of the corpus.")
    generated: Flag = Field(description="Whether every seed generates speech of its own.")
    utterances: Whole = Field(description="Number of utterances.")
    speakers: Whole = Field(description="Number of speakers.")
    emotions: tuple[Text, ...] = Field(description="Names of the emotions, in the order of the classes.")
    clients: PositiveCount = Field(description="Number of clients.")


class StudyRecovery(StudyPart):
    """The rounds after the unlearn step."""

    name: SharedName = Field(description="none, gentle, ordinary, gentle-removed or ordinary-removed.")
    settings: SettingValues = Field(description="The section `recovery` of the config.")


class StudyTask(StudyPart):
    """What is the same for all runs of a study but method and seed, and for all studies that are merged."""

    digest: Digest = Field(description="SHA-256 of the rest of this part, as `task_digest` computes it.")
    corpus: StudyCorpus = Field(description="The corpus.")
    sizes: tuple[Whole, ...] = Field(description="Utterances that each requester deletes; 0 = all.")
    requesters: tuple[PositiveCount, ...] = Field(description="Numbers of clients that request a deletion.")
    apart: Whole = Field(description="Rounds between one requester and the next.")
    aggregations: tuple[SharedName, ...] = Field(description="How the requesters' updates are aggregated.")
    recoveries: tuple[StudyRecovery, ...] = Field(description="Rounds after the unlearn step.")
    windows: tuple[Whole, ...] = Field(description="Rounds that a request waits for others.")
    folds: tuple[Whole, ...] = Field(description="Folds of the corpus's protocol; 0 = drawn at random.")
    settings: SettingValues = Field(description="All other settings that decide results, by dotted keys.")


class StudySpeech(StudyPart):
    """The speech of one fold and seed, as digests (`study.speech.SpeechDigest`)."""

    fold: Whole = Field(description="Fold of the corpus's protocol.")
    seed: Whole = Field(description="Seed of the run.")
    corpus: Digest = Field(description="Digest of speakers, emotions and lengths of all utterances.")
    level: Amount = Field(description="Mean absolute sample, 16-bit integers.")
    partition: Digest = Field(description="Digest of who trains on which utterances.")


class StudyMeasures(StudyPart):
    """The measures of one model of a run; `study.rows.StudyRow` says what each is."""

    forget: Share | None = Field(None, description="Forget accuracy.")
    retain: Share | None = Field(None, description="Retain accuracy.")
    test: Share | None = Field(None, description="Test accuracy.")
    unseen: Share | None = Field(None, description="UAR on unseen speakers.")
    membership: Share | None = Field(None, description="AUC of the population attack.")
    gap: Share | None = Field(
        None, description="Mean gap to the retrained models; of the retrained model, the noise floor."
    )
    client_seconds: Amount | None = Field(None, description="CPU time on the clients, in s.")
    gap_forget: Share | None = Field(None, description="Gap in forget accuracy.")
    gap_retain: Share | None = Field(None, description="Gap in retain accuracy.")
    gap_test: Share | None = Field(None, description="Gap in test accuracy.")
    gap_membership: Share | None = Field(None, description="Gap in membership AUC.")
    test_uar: Share | None = Field(None, description="UAR on test speech.")
    test_macro_f1: Share | None = Field(None, description="Macro F1 on test speech.")
    unseen_wa: Share | None = Field(None, description="Accuracy on unseen speakers.")
    unseen_macro_f1: Share | None = Field(None, description="Macro F1 on unseen speakers.")
    shift_requesters: Amount | None = Field(
        None, description="Shift of log-odds on held-out speech of those who asked, in nats."
    )
    shift_others: Amount | None = Field(None, description="The same of all others.")
    slope_requesters: Number | None = Field(
        None, description="Slope of the log-odds after on those before, of those who asked."
    )
    slope_others: Number | None = Field(None, description="The same of all others.")
    spread: Amount | None = Field(None, description="Standard deviation of log-odds on D_f, in nats.")
    shift_never_heard: Amount | None = Field(None, description="Shift on candidates never heard, in nats.")
    slope_never_heard: Number | None = Field(None, description="Slope on candidates never heard.")
    follow_slope: Number | None = Field(None, description="Slope of log-odds on the method's targets.")
    follow_residual: Amount | None = Field(None, description="Residuals about that line, in nats.")
    membership_tpr: Share | None = Field(
        None, description="True positive rate of the population attack at a false positive rate of 1 %."
    )
    ulira: Share | None = Field(None, description="AUC of U-LiRA.")
    ulira_tpr: Share | None = Field(
        None, description="True positive rate of U-LiRA at a false positive rate of 1 %."
    )
    klom: Number | None = Field(None, description="Median KLoM, in nats.")
    klom_p95: Number | None = Field(None, description="95th percentile of KLoM, in nats.")
    klom_gaussian: Number | None = Field(None, description="KLoM of fitted Gaussians, in nats.")


class ReferenceScores(StudyPart):
    """One retrained model: the measures that gaps are distances in."""

    forget: Share | None = Field(None, description="Forget accuracy.")
    retain: Share | None = Field(None, description="Retain accuracy.")
    test: Share | None = Field(None, description="Test accuracy.")
    membership: Share | None = Field(None, description="AUC of the population attack.")


class StudyCounts(StudyPart):
    """Numbers of utterances that accuracies of a run are shares of."""

    forget: Whole | None = Field(None, description="Of D_f.")
    retain: Whole | None = Field(None, description="Of D_r.")
    test: Whole | None = Field(None, description="Held-out utterances of client speakers.")
    unseen: Whole | None = Field(None, description="Utterances of unseen speakers.")


RunKey = tuple[str, int, int, str, str, int, int, int]
"""method, size, requesters, aggregation, recovery, window, fold, seed"""


class StudyRun(StudyPart):
    """One run: a method, one deletion, one seed, and the four models that it compares."""

    contributor: SharedName = Field(description="Who made it.")
    method: SharedName = Field(description="Name among this contributor's methods.")
    size: Whole = Field(description="Utterances that each requester deletes; 0 = all.")
    requesters: PositiveCount = Field(description="Clients that request a deletion.")
    aggregation: SharedName = Field(description="How the requesters' updates are aggregated.")
    recovery: SharedName = Field(description="Name of the recovery.")
    window: Whole = Field(description="Rounds that a request waits for others.")
    fold: Whole = Field(description="Fold of the corpus's protocol.")
    seed: Whole = Field(description="Seed.")
    rounds_waited: Amount | None = Field(None, description="Rounds that the requests waited, on average.")
    scalars: Text = Field("", description="The server's numbers that the method read, by spaces.")
    says_nothing: Text = Field("", description="Why the run says nothing about the method; else empty.")
    guarded: Whole = Field(0, description="Honest updates that the server's guard touched.")
    utterances: StudyCounts = Field(description="Numbers of utterances.")
    original: StudyMeasures = Field(description="The original model.")
    unlearned: StudyMeasures = Field(description="Right after the last unlearn step.")
    recovered: StudyMeasures = Field(description="After the recovery rounds.")
    retrained: StudyMeasures = Field(description="The retrained model.")
    references: tuple[ReferenceScores, ...] = Field(description="Retrained models, one for each seed.")

    @property
    def key(self) -> RunKey:
        """What tells it from the other runs of its contributor."""
        return (
            self.method,
            self.size,
            self.requesters,
            self.aggregation,
            self.recovery,
            self.window,
            self.fold,
            self.seed,
        )

    @property
    def words(self) -> str:
        """What it is, for a message: "calm, 20 utterances, seed 1"."""
        size = f"{self.size} utterances" if self.size else "a whole client"
        asking = f"{self.requesters} x " if self.requesters > 1 else ""
        fold = f", fold {self.fold}" if self.fold else ""
        return f"{self.method}, {asking}{size}, {self.aggregation}, {self.recovery}{fold}, seed {self.seed}"

    @property
    def findings(self) -> dict[str, Any]:
        """All that it found, as plain data; times and the contributor are not among it."""
        stages = ("original", "unlearned", "recovered", "retrained")
        times = {stage: {"client_seconds"} for stage in stages}
        return self.model_dump(exclude={"contributor": True, **times})


class StudyFile(StudyPart):
    """A study, or several that were merged."""

    schema_: Literal["fedunlearn/study/1"] = Field(alias="schema", description="Name and version.")
    contributors: tuple[Contributor, ...] = Field(description="Who made the runs.")
    task: StudyTask = Field(description="What is the same for all runs.")
    methods: tuple[MethodEntry, ...] = Field(description="The methods of each contributor.")
    speech: tuple[StudySpeech, ...] = Field(description="Digests of the speech of each fold and seed.")
    runs: tuple[StudyRun, ...] = Field(description="Every run.")

    def to_text(self) -> str:
        """Write it as JSON with one run on a line; what is not known is left out of the measures."""
        content = self.model_dump(mode="json", by_alias=True, exclude={"methods", "task"}, exclude_none=True)
        # The value of a setting may be null.
        content["methods"] = [method.model_dump(mode="json") for method in self.methods]
        parts = ["{", f' "schema": {json.dumps(self.schema_)},']
        task = json.dumps(self.task.model_dump(mode="json"), indent=1).replace("\n", "\n ")
        parts.append(f' "task": {task},')
        for name in _LINE_BY_LINE:
            lines = ",\n".join(f"  {json.dumps(each)}" for each in content[name])
            parts.append(f' "{name}": [\n{lines}\n ]{"" if name == _LINE_BY_LINE[-1] else ","}')
        return "\n".join([*parts, "}"]) + "\n"


def study_of_parts(
    contributors: Iterable[Contributor],
    task: StudyTask,
    methods: Iterable[MethodEntry],
    speech: Iterable[StudySpeech],
    runs: Iterable[StudyRun],
) -> StudyFile:
    """Put a study together in an order that does not depend on that of its parts.

    Args:
        contributors: who made runs.
        task: of all runs.
        methods: of each contributor.
        speech: of each fold and seed.
        runs: all of them.
    """
    return StudyFile(
        schema=SCHEMA,
        contributors=tuple(sorted(contributors, key=written)),
        task=task,
        methods=tuple(sorted(methods, key=lambda entry: (entry.name, entry.contributor))),
        speech=tuple(sorted(speech, key=lambda one: (one.fold, one.seed))),
        runs=tuple(sorted(runs, key=lambda run: (*run.key, run.contributor))),
    )


def task_digest(task: StudyTask) -> str:
    """Compute the digest of all that a task says but its digest."""
    written = json.dumps(task.model_dump(mode="json", exclude={"digest"}), sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()


def write_study(study: StudyFile, folder: Path) -> Path:
    """Write study.json.

    Args:
        study: to be written.
        folder: where to; it exists.

    Returns:
        the file.

    Raises:
        OSError: it cannot be written.
    """
    file = folder / FILE_NAME
    write_atomically(file, study.to_text())
    return file


def read_study(path: Path) -> StudyFile:
    """Read a study.

    Args:
        path: of the file, or of a folder with study.json.

    Raises:
        BadInput: there is no such file, or it is no study that this version can read.
    """
    file = path / FILE_NAME if looked_up(path, path.is_dir) else path
    text = read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: is not JSON ({error}); give a study.json of fedunlearn compare") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if not str(found).startswith(FAMILY):
        raise BadInput(f"{file}: is not a study.json of fedunlearn; give the file that compare wrote")
    if found != SCHEMA:
        raise BadInput(f"{file}: is of {found}, this version of fedunlearn reads {SCHEMA}; update the older")
    try:
        return StudyFile.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise BadInput(f"{file}: {place}: {problem['msg']}; run fedunlearn compare again") from error


def json_schema() -> dict[str, Any]:
    """Make the JSON schema (draft 2020-12) of study.json from the types."""
    made = StudyFile.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://fedunlearn.invalid/schemas/study.schema.json",
        **made,
        "title": "study.json of a comparison",
    }


def written(part: StudyPart) -> str:
    """Write a part as JSON that is the same for equal parts."""
    return json.dumps(part.model_dump(mode="json"), sort_keys=True)


if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
