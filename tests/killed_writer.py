"""A writer of the ledger that is killed again and again: ``python killed_writer.py LEDGER TIMES``.

Each life appends rows and tells on a pipe which it was promised. After each death: no promised row is
missing, none is there twice, the chain is whole. Prints what came of it as JSON; exit code 1 if not.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from fedunlearn.ledger import Ledger, LedgerReader

SALT = b"0123456789abcdef"
LONGEST = 0.02
"""seconds of a life, in which it opens the ledger and appends some rows"""


def live(path: Path, life: int, pipe: int) -> None:
    """Append for ever; row ``n`` of a life is promised once ``append`` has returned."""
    ledger = Ledger(path, SALT)
    for n in range(1_000_000):
        ledger.append(f"{life}-{n // 3}", life, n, ("raised", "accepted", "unlearned")[n % 3])
        os.write(pipe, b"%d\n" % n)
        ledger.append(f"{life}-{n // 3}", life, n, "raised")  # once more, as after a resume: no effect


def main(path: Path, times: int) -> None:
    """Kill it ``times`` times and look each time."""
    promised: list[tuple[int, int]] = []
    for life in range(times):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            live(path, life, writing)
        os.close(writing)
        # The golden ratio spreads the moments evenly over the span, whatever their number.
        time.sleep(LONGEST * (0.6180339887 * life % 1.0))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            promised += [(life, int(line)) for line in pipe.read().split("\n")[:-1]]
        if path.exists() and path.stat().st_size:
            check(path, promised)
        elif promised:
            sys.exit("promised, and there is no ledger")
    with LedgerReader(path) as ledger:
        rows = len(ledger.entries())
    print(json.dumps({"killed": times, "promised": len(promised), "rows": rows}))


def check(path: Path, promised: list[tuple[int, int]]) -> None:
    """Every promised row once, in a whole chain."""
    with LedgerReader(path) as ledger:
        try:
            entries = ledger.entries()
        except Exception:
            if promised:
                raise
            return  # killed before the first table was there
        if found := ledger.verify():
            sys.exit(found)
        kept = [(e.request, e.state) for e in entries]
        if len(set(kept)) < len(kept):
            sys.exit("a row is there twice")
        for life, n in promised:
            row = ledger.hashed(f"{life}-{n // 3}", life), ("raised", "accepted", "unlearned")[n % 3]
            if row not in set(kept):
                sys.exit(f"row {n} of life {life} was promised and is missing")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
