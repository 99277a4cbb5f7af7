"""The page of the audit bench: rates, intervals and marks as they were given."""

from pathlib import Path

from fedunlearn.report.audit import (
    AuditedServer,
    AuditRate,
    AuditSummary,
    AuditVerifier,
    audit_table,
    servers_table,
    write_audit_page,
)
from fedunlearn.report.markup import markdown

NEVER, ALWAYS = AuditRate(0, 0, 10, (0.0, 0.26)), AuditRate(10, 10, 10, (0.78, 1.0))
SOME = AuditRate(4, 0, 10, (0.16, 0.7))
SUMMARY = AuditSummary(
    (AuditVerifier("requester", "its receipts"), AuditVerifier("replay", "the run computed again")),
    (
        AuditedServer("honest", "does as it should", (NEVER, NEVER), control=True),
        AuditedServer("ignore", "discards the updates", (ALWAYS, ALWAYS)),
        AuditedServer("relearn", "gives <it> back", (SOME, NEVER)),
        AuditedServer("hoard", "keeps a model", (NEVER, NEVER), why_not="nobody sees it"),
    ),
    ("generated speech", "10 seeds"),
    0.05,
)


def test_the_headline_counts_cheats_and_no_controls() -> None:
    expected = "3 cheating servers: 1 found in every run by somebody, 1 in some runs, 1 by nobody"
    assert SUMMARY.headline == expected


def test_a_row_has_counts_intervals_and_a_mark_where_exact_checks_did_it() -> None:
    rows = {row.head: row for row in audit_table(SUMMARY).rows}
    assert [cell.text for cell in rows["ignore"].cells] == ["10/10†", "10/10†"]
    assert [cell.text for cell in rows["relearn"].cells] == ["4/10", "0/10"]
    assert rows["relearn"].cells[0].note == "[0.16, 0.70]" and rows["relearn"].note == "gives <it> back"
    assert "| honest (control) | 0/10 | 0/10 |" in markdown([audit_table(SUMMARY)])
    assert "| hoard | keeps a model; nobody sees it |" in markdown([servers_table(SUMMARY)])


def test_the_page_is_one_file_that_loads_nothing_and_escapes_words(tmp_path: Path) -> None:
    write_audit_page(SUMMARY, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert SUMMARY.headline in page and "gives &lt;it&gt; back" in page and "<svg" in page
    assert "data:" not in page and "hoard: nobody sees it." in page
    assert "<script" not in page and "src=" not in page
    write_audit_page(SUMMARY, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page
