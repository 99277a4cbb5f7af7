"""The page of a bench of cheating servers: who found which, as a table, a figure and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fedunlearn.files import write_atomically
from fedunlearn.report.figures.style import PALETTE, FigureSpec, despine, new_figure
from fedunlearn.report.tables import Cell, Column, Row, Table
from fedunlearn.report.templates import fill_template
from fedunlearn.report.values import Interval, bracketed, many

_DARK = 0.6
"""share from which a cell's text is light"""


@dataclass(frozen=True)
class AuditVerifier:
    """Somebody who tries to find out whether a server cheats.

    Attributes:
        name: in tables.
        has: what it has to go by.
    """

    name: str
    has: str


@dataclass(frozen=True)
class AuditRate:
    """How often a verifier found a server.

    Attributes:
        found: number of runs in which it raised an alarm.
        exact: number of runs in which an exact check alone would have.
        runs: number of runs.
        ends: of the 95 % interval of the rate.
    """

    found: int
    exact: int
    runs: int
    ends: Interval

    @property
    def share(self) -> float:
        """The rate; 0 where there are no runs."""
        return self.found / self.runs if self.runs else 0.0


@dataclass(frozen=True)
class AuditedServer:
    """A server, and how often each verifier found it.

    Attributes:
        name: of the server.
        what: it does.
        rates: in the order of the verifiers.
        control: whether it is a control and no cheat.
        why_not: why nobody can tell; empty = somebody should.
    """

    name: str
    what: str
    rates: tuple[AuditRate, ...]
    control: bool = False
    why_not: str = ""

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.name} (control)" if self.control else self.name

    @property
    def always_found(self) -> bool:
        """Whether somebody found it in every run."""
        return any(rate.runs and rate.found == rate.runs for rate in self.rates)


@dataclass(frozen=True)
class AuditSummary:
    """What a bench found.

    Attributes:
        verifiers: columns of the table.
        servers: its rows.
        setting: a phrase for each part of the setting.
        false_alarms: rate that thresholds were set for.
    """

    verifiers: tuple[AuditVerifier, ...]
    servers: tuple[AuditedServer, ...]
    setting: tuple[str, ...]
    false_alarms: float

    @property
    def headline(self) -> str:
        """The result in one line."""
        cheats = [server for server in self.servers if not server.control]
        always = sum(server.always_found for server in cheats)
        nobody = sum(not any(r.ends[0] > self.false_alarms for r in server.rates) for server in cheats)
        sometimes = len(cheats) - always - nobody
        parts = [f"{always} found in every run by somebody"]
        parts += [f"{sometimes} in some runs"] if sometimes else []
        parts += [f"{nobody} by nobody"] if nobody else []
        return f"{many(len(cheats), 'cheating server')}: {', '.join(parts)}"


def audit_table(summary: AuditSummary) -> Table:
    """Make the table of detection rates.

    Args:
        summary: of the bench.
    """
    columns = (Column("server", left=True), *(Column(verifier.name) for verifier in summary.verifiers))
    rows = [
        Row(server.label, note=server.what, cells=tuple(_cell(rate) for rate in server.rates))
        for server in summary.servers
    ]
    caption = (
        "Runs in which the verifier raised an alarm, of all runs; below it the 95 % interval of the rate. "
        "† by exact checks alone, which an honest server always passes. Controls: the honest server shows "
        f"false alarms, which thresholds are set to keep at {summary.false_alarms:.0%}."
    )
    return Table(columns, tuple(rows), caption=caption)


def servers_table(summary: AuditSummary) -> Table:
    """Make the table of what each server does, and why nobody finds it where that is so.

    Args:
        summary: of the bench.
    """
    columns = (Column("server", left=True), Column("what it does", left=True))
    rows = []
    for server in summary.servers:
        what = f"{server.what}; {server.why_not}" if server.why_not else server.what
        rows.append(Row(server.label, cells=(Cell(what),)))
    return Table(columns, tuple(rows))


def audit_figure(summary: AuditSummary) -> FigureSpec:
    """Make the figure of detection rates, a cell for each server and verifier.

    Args:
        summary: of the bench.
    """
    alt = "Detection rate of every cheating server by every verifier"
    return FigureSpec("audit", alt, lambda width: _draw(summary, width), (880,))


def write_audit_page(summary: AuditSummary, path: Path) -> None:
    """Write the page as a single HTML file that loads nothing else.

    Args:
        summary: of the bench.
        path: where to; its folder exists.

    Raises:
        OSError: the file cannot be written.
    """
    page = fill_template(
        "audit.html.j2",
        ("page.css", "comparison.css"),
        headline=summary.headline,
        setting=summary.setting,
        figure=audit_figure(summary),
        table=audit_table(summary),
        verifiers=summary.verifiers,
        nobody=[server for server in summary.servers if server.why_not],
    )
    write_atomically(path, page)


def _cell(rate: AuditRate) -> Cell:
    mark = "†" if rate.found and rate.exact == rate.found else ""
    return Cell(f"{rate.found}/{rate.runs}{mark}", note=bracketed(rate.ends))


def _draw(summary: AuditSummary, width: int) -> Figure:
    shares = np.array([[rate.share for rate in server.rates] for server in summary.servers])
    figure = new_figure(width, 90 + 24 * len(summary.servers))
    axes = figure.subplots()
    despine(axes, grid="none")
    for y, x in np.ndindex(*shares.shape):
        # No image: a page loads none, not even one that is in it.
        axes.bar(x, 0.94, 0.96, bottom=y - 0.47, color=PALETTE["heat"], alpha=float(shares[y, x]))
        colour = PALETTE["on-heat" if shares[y, x] > _DARK else "ink"]
        axes.text(x, y, f"{shares[y, x]:.2f}", ha="center", va="center", fontsize=10, color=colour)
    axes.set_xticks(range(len(summary.verifiers)), _names(summary.verifiers), fontsize=10)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(summary.servers)), [s.label for s in summary.servers], fontsize=10)
    axes.set_xlim(-0.5, len(summary.verifiers) - 0.5)
    axes.set_ylim(len(summary.servers) - 0.5, -0.5)
    return figure


def _names(verifiers: Sequence[AuditVerifier]) -> list[str]:
    return [verifier.name.replace(", ", ",\n").replace(" who", "\nwho") for verifier in verifiers]
