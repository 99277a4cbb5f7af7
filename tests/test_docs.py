"""The pages that users read say what the code does."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import Field

from fedunlearn.config import Config
from fedunlearn.config.fields import Settings
from fedunlearn.config.reference import describe, render

ROOT = Path(__file__).parent.parent


def keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fields_of_lists(settings: type[Settings], key: str = "", listed: bool = False) -> Iterator[str]:
    """Names of the fields of tables that a list of settings holds, in lists of such tables, too."""
    for name, field in settings.model_fields.items():
        below, kind = f"{key}{name}", field.annotation
        item = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if isinstance(item, type) and issubclass(item, Settings):
            inside = item is not kind
            yield from fields_of_lists(item, f"{below}[]." if inside else f"{below}.", listed or inside)
        if listed:
            yield below


def test_every_setting_stands_in_the_page_of_settings_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    settings = dict(keys(Config().model_dump()))
    fields = set(fields_of_lists(Config))
    assert {"deletions.schedule[].client", "study.claims[].parts[].bound"} <= fields
    assert rows.keys() == settings.keys() | fields
    for key, default in settings.items():
        if isinstance(default, bool | int | float | str):
            shown = str(default).lower() if isinstance(default, bool) else repr(default).replace("'", '"')
            assert f"| `{shown}` |" in rows[key], key


def test_the_page_of_settings_is_the_one_that_is_generated() -> None:
    """If this fails: python -m fedunlearn.config.reference > docs/configuration.md"""
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == render()


def test_every_field_of_every_settings_class_explains_itself_in_sentences() -> None:
    classes = [Settings]
    while classes:
        settings = classes.pop()
        classes += settings.__subclasses__()
        if settings.__module__.startswith("fedunlearn.config"):
            for name in settings.model_fields:
                text = describe(settings, name)
                assert text[0].isupper() or text[0] == '"', (settings, name)
                assert text.endswith("."), (settings, name)


def test_a_field_without_an_explanation_is_refused_and_a_new_default_keeps_the_old_one() -> None:
    class Parent(Settings):
        steps: int = Field(default=1, description="Number of steps.")

    class Child(Parent):
        steps: int = 2
        more: int = 0

    assert describe(Child, "steps") == "Number of steps."
    with pytest.raises(ValueError, match=r"Child\.more has no description"):
        describe(Child, "more")


def test_the_readme_begins_with_the_two_commands() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    first = page.index("```")
    assert page.index("make run") < page.index("make test") < first + 200
    for named in ("pip install -e .", "uv run", "configs/ravdess.toml", "docs/configuration.md"):
        assert named in page


def test_what_the_readme_links_to_exists() -> None:
    import re

    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_files_that_the_pages_name_exist() -> None:
    import re

    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for name in re.findall(r"\b[a-z_]+(?:/[a-z_-]+)+\.(?:py|toml)\b", page.read_text(encoding="utf-8")):
            places = (ROOT / name, ROOT / "fedunlearn" / name)
            assert name.startswith("path/to/") or any(p.exists() for p in places), f"{page.name}: {name}"
