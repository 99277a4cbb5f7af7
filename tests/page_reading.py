"""What tests read on a page: its elements, drawings and words."""

import re
from html.parser import HTMLParser
from typing import Any

from fedunlearn.results_schema import Results

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Tags(HTMLParser):
    """Reads the page as a browser would: its tags, attributes, text, and whether they close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(results: dict[str, Any]) -> Results:
    """Results as the report takes them."""
    return Results.model_validate(results)


def drawings(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def words(page: str) -> str:
    return " ".join(Tags(page).text.split())


def bare(results: dict[str, Any]) -> dict[str, Any]:
    """The same results without what is slow to draw."""
    for model in results["models"].values():
        model.pop("losses", None)
        model.pop("confusion", None)
    return results | {"timeline": [], "gap": results["gap"]}
