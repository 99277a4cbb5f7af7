"""The rooms of the house: imports run one way, heavy libraries stay behind their fences, files stay short.

The rules read the sources with ``ast``; each is also shown a planted violation.
"""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from fedunlearn.unlearning import METHODS, PRIVILEGED

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fedunlearn"
LONGEST = 600
"""lines: beyond it a file hardly tells one part of the story; no file is split for a line count"""
LONG_FILES = {"results_schema"}
"""files that are longer all the same: a type for each object in results.json"""
LONGEST_METHOD = 60
"""lines of an unlearning method's file: its docstring, its card and its objective"""
LONGEST_CLASS = 200
"""lines"""
LONG_CLASSES = {"evaluation.judge.Judge", "models.encoders.model.EncoderModel", "results_schema.Results"}
"""longer all the same: one measures all that is judged, one is a model with all its modes, one is fields"""
MOST_ARGUMENTS = 6
"""of a constructor, besides self; dataclasses may have more fields"""
LIBRARY_ATTRIBUTES = {
    *("stdout", "stderr", "handlers", "propagate", "filters", "caption", "overflow"),
    *("allow_tf32", "benchmark", "fill_uninitialized_memory", "layer_norm"),
    *("content", "task_id", "run_id", "node_id", "description", "__file__", "frames", "mod_tracker", "width"),
}
"""attributes that libraries mean to be set from outside"""

OTHER_MEANINGS = {
    "none": (
        *("config", "corpora.rows", "evaluation.judge", "evaluation.request_privacy", "study.grid"),
        *("report.audit", "report.figures", "report.runs.figure", "report.runs.tables"),
        "report.study.figures",
        "results_schema",
    ),
    "calm": ("config.unlearning", "corpora.ravdess"),
    "destroy": ("experiment.references", "results_schema"),
    "delete": ("cli.deploy", "deployment.incidents", "deployment.local"),
}
"""Name of a method -> where it means something else: no colour, an emotion, a random stream, what a person
does, the default method, or in the schema of results the gap of a control"""
METHOD_NAMES = {*METHODS, *PRIVILEGED} - {"not", "retrained"}
"""all but a word of English and the name of a model"""

ROOMS = (
    ("errors", "streams", "cpus", "seeding", "blockwise"),
    ("inputs", "console", "folders", "links", "files", "dotted"),
    (
        "config",
        "results_schema",
        "caveats",
        "run_folder",
        "run_progress",
        "ledger",
        "checkpoints",
        "examples",
        "audio",
    ),
    ("corpora", "models", "tracking"),
    ("partition", "training"),
    ("unlearning", "vault", "evaluation"),
    ("deletion", "messages"),
    ("client", "audit.influence"),
    ("server",),
    ("experiment", "report"),
    ("engines", "final_model", "held_speech"),
    ("study", "whole_run", "watch", "audit", "deployment"),
    ("flower_app", "cli", "api"),
    ("__main__",),
    ("simulations",),
)
"""Folders (and the files beside them) from the ground up: each imports from its own floor and those below."""

NOT_FOR_THE_SERVER = (
    "corpora",
    "partition",
    "vault",
    "evaluation",
    "experiment",
    "report",
    "engines",
    "study",
    "audit",
)
"""What a server that is deployed alone does without; nothing that it imports may import them, either."""

ALONE = {
    "config": {"errors", "inputs", "config"},
    "seeding": set(),
    "errors": set(),
    "streams": set(),
    "cpus": set(),
    "inputs": {"errors"},
    "folders": {"errors"},
    "console": {"streams"},
    "audio": set(),
    "ledger": set(),
    "blockwise": set(),
    "report": {"report", "errors", "results_schema", "caveats", "run_folder", "files", "dotted"},
    "watch": {
        "watch",
        "results_schema",
        "run_folder",
        "run_progress",
        "ledger",
        "files",
        "console",
        "errors",
    },
    "tracking": {"tracking", "errors", "results_schema", "run_folder", "dotted"},
}
"""What the leaves, and the report, which reads results, may import of the package."""

FENCES = {
    "flwr": (
        "client",
        "server",
        "messages",
        "engines",
        "flower_app",
        "experiment.experiment",
        "simulations.benchmarks",
    ),
    "ray": ("engines",),
    **dict.fromkeys(("transformers", "peft", "huggingface_hub"), ("models.encoders",)),
    "torchaudio": ("audio", "models.frontend"),
    "matplotlib": ("report", "simulations.measure_figures", "simulations.result_tables.figure"),
    "soundfile": ("audio", "corpora"),
    "sqlite3": ("ledger", "vault.traces"),
    "typer": ("cli", "simulations"),
    **dict.fromkeys(("tensorboard", "wandb", "mlflow"), ("tracking",)),
    "http": ("watch.server",),
    **dict.fromkeys(
        ("pickle", "dill", "joblib", "random", "requests", "urllib", "unittest", "pytest"),
        (),
    ),
    "socket": ("deployment.ports",),
    "cryptography": ("deployment.credentials",),
}
"""Library -> who may import it. Nobody: pickles, the global random numbers, the network, test tools."""

VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "stuff", "base", "core"}


def sources() -> dict[str, str]:
    """Module name without the package -> source; scripts are "simulations.<name>"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "simulations").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = path.read_text(encoding="utf-8")
    return found


SOURCES = sources()


# ---- reading ---------------------------------------------------------------------------------------------


@cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """Every node of a source's syntax tree."""
    return tuple(ast.walk(ast.parse(source)))


def imports(source: str) -> Iterator[str]:
    """Full names of everything imported, wherever in the file; also by importlib and __import__."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if not node.level:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "import_module",
            "importlib.import_module",
            "__import__",
        }:
            yield from (str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def floor(module: str) -> int | None:
    """The floor of the room that names the module most exactly."""
    homes = [
        (len(room), level) for level, rooms in enumerate(ROOMS) for room in rooms if within(module, room)
    ]
    return max(homes)[1] if homes else None


def own_imports(source: str, modules: set[str]) -> set[str]:
    """Modules of the package that a source imports."""
    names = {name.removeprefix("fedunlearn.") for name in imports(source) if name.startswith("fedunlearn.")}
    return {name for name in names if name in modules}


# ---- rules: each takes all sources and gives one line for each breach --------------------------------------


def upward_imports(files: dict[str, str]) -> list[str]:
    breaches = []
    for module, source in files.items():
        here = floor(module)
        if here is None and module:
            breaches.append(f"{module} has no room in DESIGN")
            continue
        for name in own_imports(source, set(files)):
            there = floor(name)
            if there is not None and here is not None and there > here:
                breaches.append(f"{module} imports {name}, which lies above it")
    return breaches


def server_alone(files: dict[str, str]) -> list[str]:
    """What the server imports, directly or not, knows of no judge, partition, corpus, vault or report."""
    modules = set(files)
    breaches = []
    todo: list[tuple[str, ...]] = [(module,) for module in sorted(modules) if within(module, "server")]
    seen: set[str] = set()
    while todo:
        path = todo.pop()
        module = path[-1]
        if module in seen:
            continue
        seen.add(module)
        if any(within(module, room) for room in NOT_FOR_THE_SERVER):
            breaches.append(f"{' > '.join(path)}: is not for the server")
            continue
        parts = module.split(".")
        parents = {".".join(parts[:n]) for n in range(1, len(parts))} & modules
        todo += [(*path, name) for name in sorted(own_imports(files[module], modules) | parents)]
    return breaches


def cycles(files: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle; a package and its own modules are one thing here."""
    graph = {
        m: {n for n in own_imports(s, set(files)) if not within(m, n) and not within(n, m)}
        for m, s in files.items()
    }
    breaches = []
    for start in graph:
        reached, todo = set(), list(graph[start])
        while todo:
            name = todo.pop()
            if name not in reached:
                reached.add(name)
                todo += graph[name]
        if start in reached:
            breaches.append(f"{start} imports itself in a circle")
    return breaches


def leaves(files: dict[str, str]) -> list[str]:
    breaches = []
    for module, source in files.items():
        for room, allowed in ALONE.items():
            if within(module, room):
                strangers = {
                    n for n in own_imports(source, set(files)) if not any(within(n, a) for a in allowed)
                }
                breaches += [f"{module} imports {name}, but is a leaf" for name in strangers]
    return breaches


def fences(files: dict[str, str]) -> list[str]:
    return [
        f"{module} imports {library}, which is for {FENCES[library] or 'nobody'}"
        for module, source in files.items()
        for library in {name.split(".")[0] for name in imports(source)}
        if library in FENCES and not any(within(module, room) for room in FENCES[library])
    ]


def relative_imports(files: dict[str, str]) -> list[str]:
    return [
        f"{m} imports {n}: write it in full"
        for m, s in files.items()
        for n in imports(s)
        if n.startswith(".")
    ]


def asserts(files: dict[str, str]) -> list[str]:
    """``assert x is not None`` and isinstance tell the type checker something; any other assert is an error
    message that python -O leaves out.
    """
    breaches = []
    for module, source in files.items():
        for node in nodes(source):
            if isinstance(node, ast.Assert) and not re.fullmatch(
                r"[\w.\[\]]+ is not None|isinstance\(.*\)", ast.unparse(node.test)
            ):
                breaches.append(f"{module}:{node.lineno} asserts {ast.unparse(node.test)}")
    return breaches


GLOBAL_RANDOMNESS = re.compile(
    r"(np|numpy)\.random\.(?!Generator$|PCG64$|SeedSequence$)\w+|torch\.manual_seed|torch\.load"
)


def global_randomness(files: dict[str, str]) -> list[str]:
    """Random numbers come from ``seeding`` alone; and torch.load would read a pickle."""
    return [
        f"{module}:{node.lineno} calls {ast.unparse(node.func)}"
        for module, source in files.items()
        for node in nodes(source)
        if isinstance(node, ast.Call) and GLOBAL_RANDOMNESS.fullmatch(ast.unparse(node.func))
    ]


def long_files(files: dict[str, str]) -> list[str]:
    lengths = {module: len(source.splitlines()) for module, source in files.items()}
    return [
        f"{module} has {n} lines" for module, n in lengths.items() if n > LONGEST and module not in LONG_FILES
    ]


def classes(files: dict[str, str]) -> Iterator[tuple[str, ast.ClassDef]]:
    """(module, class) of every class."""
    for module, source in files.items():
        for node in nodes(source):
            if isinstance(node, ast.ClassDef):
                yield module, node


def long_classes(files: dict[str, str]) -> list[str]:
    lengths = {f"{m}.{c.name}": (c.end_lineno or 0) - c.lineno + 1 for m, c in classes(files)}
    return [
        f"{name} has {n} lines"
        for name, n in lengths.items()
        if n > LONGEST_CLASS and name not in LONG_CLASSES
    ]


def homonyms(files: dict[str, str]) -> list[str]:
    """One name, one type: a public class or type alias of one name stands in one module of the package.

    Aliases that are written alike are the same type.
    """
    meanings: dict[str, dict[str, str]] = {}
    for module, source in files.items():
        if within(module, "simulations"):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                meanings.setdefault(node.name, {})[module] = f"class in {module}"
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    meanings.setdefault(name, {})[module] = ast.unparse(node.value)
    return [
        f"{' and '.join(sorted(where))} each define {name}"
        for name, where in meanings.items()
        if len(set(where.values())) > 1
    ]


def wide_constructors(files: dict[str, str]) -> list[str]:
    breaches = []
    for module, cls in classes(files):
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1
                if count > MOST_ARGUMENTS:
                    breaches.append(f"{module}.{cls.name} takes {count} arguments")
    return breaches


def attributes_set_from_outside(files: dict[str, str]) -> list[str]:
    """Only data has attributes that others set: fields of a dataclass that is not frozen, or of results."""
    fields = {
        node.target.id
        for module, cls in classes(files)
        if module == "results_schema"
        or any(ast.unparse(d) in {"dataclass", "dataclass()"} for d in cls.decorator_list)
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    breaches = []
    for module, source in files.items():
        for node in nodes(source):
            if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
                continue
            own = ast.unparse(node.value) in {"self", "cls"}
            if not own and node.attr not in fields | LIBRARY_ATTRIBUTES:
                breaches.append(f"{module}:{node.lineno} sets {ast.unparse(node)}")
    return breaches


def squeezed_lines(files: dict[str, str]) -> list[str]:
    """No single line is kept from the formatter; a table of data may be."""
    return [
        f"{m} keeps lines from the formatter" for m, s in files.items() if re.search(r"#\s*fmt:\s*skip", s)
    ]


def long_methods(files: dict[str, str]) -> list[str]:
    """A method's file is its docstring, its card and its objective; what several may use lies beside them."""
    found = []
    for module, text in files.items():
        *folders, name = module.split(".")
        length = len(text.splitlines())
        if (
            folders[:1] == ["unlearning"]
            and len(folders) == 2
            and name != "contract"
            and length > LONGEST_METHOD
        ):
            found.append(f"{module}: {length} lines")
    return found


def method_names(files: dict[str, str]) -> list[str]:
    """The registry alone lists methods; whether one is a control, its card or the results say."""
    breaches = []
    for module, text in files.items():
        if within(module, "unlearning") or within(module, "simulations"):
            continue
        other = {name for name, rooms in OTHER_MEANINGS.items() if any(within(module, r) for r in rooms)}
        for node in nodes(text):
            if isinstance(node, ast.Constant) and node.value in METHOD_NAMES - other:
                breaches.append(f"{module}, line {node.lineno}: the method {node.value!r} by name")
    return breaches


def vague_names(files: dict[str, str]) -> list[str]:
    return [f"{m}: a name that says nothing" for m in files if VAGUE & set(re.split(r"[._]", m))]


Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def documented(files: dict[str, str]) -> Iterator[tuple[str, Documented, str]]:
    """Each function and class with a docstring: "module.name", its node, the docstring."""
    for module, source in files.items():
        for node in nodes(source):
            if isinstance(node, Documented):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield f"{module}.{node.name}", node, docstring


def parameters_of(node: Documented) -> set[str]:
    """What an Args or Attributes block may name: a function's parameters; a class's fields and methods."""
    if not isinstance(node, ast.ClassDef):
        given = node.args
        more = [a for a in (given.vararg, given.kwarg) if a]
        return {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, *more)}
    names: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            names |= {part.name} | (parameters_of(part) if part.name == "__init__" else set())
        elif isinstance(part, ast.Attribute | ast.Name) and isinstance(part.ctx, ast.Store):
            names.add(part.attr if isinstance(part, ast.Attribute) else part.id)
    return names


def parameter_lines(docstring: str) -> Iterator[str]:
    """The first line of each entry in the blocks Args and Attributes."""
    margin = -1
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() in {"Args:", "Attributes:"}:
            margin = indent
        elif line.strip() and indent <= margin:
            margin = -1
        elif line.strip() and margin >= 0 and indent == margin + 4:
            yield line.strip()


def crowded_parameters(files: dict[str, str]) -> list[str]:
    """Documentation tools read one parameter a line, and only what exists."""
    breaches = []
    for name, node, docstring in documented(files):
        known = parameters_of(node)
        for line in parameter_lines(docstring):
            entry = re.match(r"\*{0,2}(\w+)(?: \(.*?\))?:\s", line)
            if not entry or entry[1] not in known:
                breaches.append(f"{name} documents {line!r}, which is not one of its parameters")
    return breaches


def unfinished_summaries(files: dict[str, str]) -> list[str]:
    """The first line of a public function's docstring is a sentence, not a fragment."""
    return [
        f"{name} begins with {summary!r}"
        for name, node, docstring in documented(files)
        if not isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if not (summary := docstring.splitlines()[0]).endswith(".") or re.match(r"(Of|As) ", summary)
    ]


RULES: list[tuple[Callable[[dict[str, str]], list[str]], str, str]] = [
    (upward_imports, "vault", "def f():\n    from fedunlearn.server.app import Server"),
    (upward_imports, "server.aggregation", "from fedunlearn.experiment import experiment"),
    (upward_imports, "attic", "import os"),
    (server_alone, "server.clients", "from fedunlearn.vault.index import Index"),
    (server_alone, "messages.records", "def f():\n    from fedunlearn.evaluation.judge import Judge"),
    (cycles, "unlearning.contract", "from fedunlearn.unlearning.methods.l2ul import CARD"),
    (leaves, "seeding", "import fedunlearn.config"),
    (leaves, "report.run_page", "from fedunlearn.evaluation.gap import rank"),
    (fences, "vault", "import flwr.app"),
    (fences, "server.app", "def f():\n    import ray"),
    (fences, "client.app", "from importlib import import_module\nimport_module('ray.util')"),
    (fences, "models.cnn", "from transformers import Wav2Vec2Model"),
    (fences, "models.cnn", "import torchaudio.transforms as T"),
    (fences, "evaluation.gap", "import matplotlib.pyplot as plt"),
    (fences, "simulations.run", "import pickle"),
    (fences, "training", "from random import shuffle"),
    (relative_imports, "vault", "from . import audio"),
    (asserts, "cli", "assert clients > 0, 'give some clients'"),
    (global_randomness, "training", "import numpy as np\nnp.random.seed(1)"),
    (global_randomness, "training", "import torch\ntorch.manual_seed(1)"),
    (global_randomness, "checkpoints", "import torch\nstate = torch.load('x')"),
    (long_files, "vault", "x = 1\n" * (LONGEST + 1)),
    (method_names, "report.gaps", "if name == 'destroy':\n    pass"),
    (method_names, "server.guard", "SPECIAL = {'l2ul': 2}"),
    (method_names, "evaluation.gap", "controls.get('none')"),
    (long_methods, "unlearning.methods.calm", "x = 1\n" * LONGEST_METHOD),
    (long_methods, "unlearning.privileged.scrub", "x = 1\n" * LONGEST_METHOD),
    (long_methods, "unlearning.controls.none", "x = 1\n" * LONGEST_METHOD),
    (long_classes, "vault", "class A:\n" + "    x = 1\n" * LONGEST_CLASS),
    (wide_constructors, "vault", "class A:\n    def __init__(self, a, b, c, d, *, e, f, g): ..."),
    (attributes_set_from_outside, "engines.engine", "experiment.engine_folders = tuple"),
    (attributes_set_from_outside, "cli", "experiment.seconds += 1"),
    (squeezed_lines, "vault", "x = 1  # " + "fmt: skip"),
    (homonyms, "vault.vault", "class Judge:\n    pass"),
    (homonyms, "vault.vault", "StateDict = int"),
    (crowded_parameters, "vault", 'def f(a, b):\n    """Add.\n\n    Args:\n        a, b: numbers.\n    """'),
    (crowded_parameters, "vault", 'def f(a):\n    """Add.\n\n    Args:\n        b: a number.\n    """'),
    (crowded_parameters, "vault", 'class A:\n    """A.\n\n    Attributes:\n        b: a number.\n    """'),
    (unfinished_summaries, "vault", 'def f():\n    """Of one round."""'),
    (unfinished_summaries, "vault", 'def f():\n    """Add two numbers"""'),
    (vague_names, "server.utils", ""),
    (vague_names, "audio_helpers", ""),
]


def identify(value: object) -> str:
    return getattr(value, "__name__", "") if callable(value) else ""


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=identify)
def test_the_sources_keep_the_rule(rule: Callable[[dict[str, str]], list[str]]) -> None:
    assert rule(SOURCES) == []


@pytest.mark.parametrize(("rule", "module", "planted"), RULES, ids=identify)
def test_the_rule_would_catch_a_violation(
    rule: Callable[[dict[str, str]], list[str]], module: str, planted: str
) -> None:
    source = SOURCES.get(module, "") + "\n" + planted
    breaches = rule(SOURCES | {module: source})
    assert breaches and any(module in line for line in breaches)


def test_the_sources_were_found() -> None:
    assert {"", "cli", "vault", "engines.engine", "corpora", "simulations.run"} <= SOURCES.keys()


def test_tests_have_names_that_say_what_they_test() -> None:
    stems = {path.stem: "" for path in (ROOT / "tests").glob("*.py")}
    assert vague_names(stems) == []
