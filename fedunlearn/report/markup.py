"""Tables as GitHub's Markdown and as LaTeX (booktabs). A cell in ``**`` is bold."""

from collections.abc import Iterable

from fedunlearn.report.tables import Row, Table

_TEX = (
    *(("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("±", r"$\pm$"), ("–", "--")),
    *(("†", r"$^\dagger$"), ("‡", r"$^\ddagger$")),
)


def markdown(tables: Iterable[Table]) -> str:
    """Write tables as Markdown, one below the other, each with its title and caption."""
    return "\n".join(_markdown(table) for table in tables)


def latex(tables: Iterable[Table]) -> str:
    """Write tables as LaTeX, one below the other, each with its title and caption."""
    return "\n".join(_latex(table) for table in tables)


def _markdown(table: Table) -> str:
    heads = [column.text for column in table.columns]
    lines = [heads, ["---" if column.left else "---:" for column in table.columns]]
    for row in table.rows:
        lines.append(_texts(row) if row.cells else [f"*{row.head}*", *[""] * (len(heads) - 1)])
    drawn = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return (f"### {table.title}\n\n" if table.title else "") + drawn + _below(table)


def _below(table: Table) -> str:
    return f"\n{table.caption}\n" if table.caption else ""


def _latex(table: Table) -> str:
    width = len(table.columns)
    shape = "".join("l" if column.left else "r" for column in table.columns)
    out = [
        rf"\begin{{table}}\centering\caption{{{_tex(table.title)}. {_tex(table.caption)}}}",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        _line([column.text for column in table.columns]),
    ]
    for row in table.rows:
        if row.cells:
            out.append(_line(_texts(row)))
        else:
            out += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_tex(row.head)}}}}} \\"]
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _texts(row: Row) -> list[str]:
    return [row.head, *(cell.text for cell in row.cells)]


def _line(texts: Iterable[str]) -> str:
    return " & ".join(map(_tex, texts)) + r" \\"


def _tex(text: str) -> str:
    bold = text.startswith("**") and text.endswith("**")
    text = text.strip("*")
    for sign, written in _TEX:
        text = text.replace(sign, written)
    return rf"\textbf{{{text}}}" if bold else text
