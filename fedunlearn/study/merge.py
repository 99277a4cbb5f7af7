"""Studies by several people become one folder: study.json, a table of all methods, and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedunlearn.errors import BadInput
from fedunlearn.files import write_atomically
from fedunlearn.inputs import looked_up
from fedunlearn.report.markup import markdown
from fedunlearn.report.study import tables
from fedunlearn.report.study.contributors import contributors_table
from fedunlearn.report.study.page import Answer, write_page
from fedunlearn.study.joining import check_study_file, join_rows, merge_studies
from fedunlearn.study.rows import csv_of
from fedunlearn.study.study_file import StudyFile, read_study, write_study


@dataclass(frozen=True)
class Merged:
    """What became of several studies.

    Attributes:
        study: all of them.
        summary: the main tables as Markdown.
        notes: as ``joining.JoinedRows``.
    """

    study: StudyFile
    summary: str
    notes: tuple[str, ...]


def read_checked(paths: Sequence[Path]) -> dict[str, StudyFile]:
    """Read studies and check that each is whole.

    Args:
        paths: of files, or of folders with a study.json.

    Returns:
        path as text -> study.

    Raises:
        BadInput: a line for each thing that is wrong in any of them.
    """
    found, problems = dict[str, StudyFile](), list[str]()
    for path in dict.fromkeys(paths):
        try:
            study = read_study(path)
        except BadInput as error:
            problems += error.problems
            continue
        problems += check_study_file(study, str(path))
        found[str(path)] = study
    if problems:
        raise BadInput(problems)
    return found


def merge(paths: Sequence[Path], out: Path) -> Merged:
    """Merge studies of one task and write study.json, compare.csv, compare.md and compare.html.

    Args:
        paths: of files, or of folders with a study.json; at least one.
        out: folder to write; made where it is missing.

    Raises:
        BadInput: a study is damaged, they are not of the same task, or the folder is that of a comparison or
            cannot be written.
    """
    if looked_up(out, (out / "cells").exists):
        raise BadInput(f"--out {out}: holds a comparison, whose tables would be lost; name another")
    study = merge_studies(read_checked(paths))
    joined = join_rows(study)
    made_by = contributors_table(joined.rows, versions_of(study))
    main = [
        *tables.summaries(joined.rows),
        *tables.recognition(joined.rows),
        *tables.side_effects(joined.rows),
        made_by,
    ]
    notes = "".join(f"{note}\n\n" for note in joined.notes)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_study(study, out)
        write_atomically(out / "compare.csv", csv_of(joined.rows, first=("contributor",)))
        write_atomically(out / "compare.md", notes + markdown([*main, *tables.details(joined.rows)]))
        write_page(joined.notes, (), (Answer("", joined.rows),), out / "compare.html", made_by)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error
    return Merged(study, markdown(main), joined.notes)


def versions_of(study: StudyFile) -> Mapping[str, str]:
    """List the versions of fedunlearn of each contributor, by commas.

    Args:
        study: of one or more contributors.
    """
    found: dict[str, list[str]] = {}
    for who in study.contributors:
        found.setdefault(who.name, []).append(who.versions.get("fedunlearn", "unknown"))
    return {name: ", ".join(sorted(set(own))) for name, own in found.items()}
