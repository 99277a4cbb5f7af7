"""Servers that die, and what a resumed run must equal."""

import json
from pathlib import Path
from typing import Any

from small_run import weights_of, without_times

from fedunlearn.ledger import LedgerReader


def assert_same(out: Path, results: dict[str, Any], whole: tuple[dict[str, Any], dict[str, str]]) -> None:
    assert without_times(results) == without_times(whole[0])
    assert weights_of(out) == whole[1]
    with LedgerReader(out / "ledger.sqlite") as ledger:
        assert ledger.verify(results["ledger"]["head"]) is None


class Death(BaseException):
    """Nothing in the program may catch it."""


def lines(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
