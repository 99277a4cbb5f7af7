"""The notebook of docs/notebooks runs from its first cell to its last, and is kept without machine paths."""

import json
import re
import time
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "tour.ipynb"
LONGEST = 90
"""seconds on two cores that do nothing else"""


def sources(kind: str) -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_its_links_lead_to_pages_that_are_there() -> None:
    links = [link for text in sources("markdown") for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links
    for link in links:
        file, _, heading = link.partition("#")
        page = (NOTEBOOK.parent / file).read_text(encoding="utf-8")
        titles = {
            re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in re.findall(r"^#+ (.*)$", page, re.M)
        }
        assert not heading or heading in titles, link


def test_its_method_is_a_method_in_thirty_lines() -> None:
    (cell,) = [text for text in sources("code") if "@fu.method" in text]
    assert len(cell.splitlines()) <= 30


def test_it_is_kept_with_its_figures_and_without_paths_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "image/png" in text and len(text) < 400_000
    without_images = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(tmp|home|root|work|Users|var)/", without_images)


@pytest.mark.slow
def test_it_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    """Also run by .ci/run."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    start = time.monotonic()
    client = nbclient.NotebookClient(
        notebook, timeout=4 * LONGEST, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert time.monotonic() - start < 4 * LONGEST  # a busy machine is no failure
    drawn = [
        o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})
    ]
    assert len(drawn) == 2
