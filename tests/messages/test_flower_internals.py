"""Flower's private modules are used in one module alone, so that a new release can break one place only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import fedunlearn

PUBLIC = {"app", "clientapp", "serverapp", "simulation"}
ROOT = Path(fedunlearn.__file__).parent


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            if node.module == "flwr":  # ``from flwr import common`` names a module, too
                yield from (f"flwr.{alias.name}" for alias in node.names)


def private_imports(source: str) -> set[str]:
    parts = {name: name.split(".") for name in imported(source)}
    return {
        name for name, (first, *rest) in parts.items() if first == "flwr" and rest and rest[0] not in PUBLIC
    }


def test_only_one_module_imports_what_flower_does_not_publish() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if private_imports(path.read_text(encoding="utf-8"))
    }

    assert users == {"messages/flower_internals.py"}


def test_a_private_import_is_seen_however_it_is_written() -> None:
    for line in ("from flwr.common.serde import x", "import flwr.server", "from flwr import supercore"):
        assert private_imports(line), line
    assert not private_imports("from flwr.app import Message\nimport flwr\nfrom flwrs.common import x")
