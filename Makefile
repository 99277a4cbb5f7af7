# Two commands: `make run` (set up, then the main job) and `make test` (set up, then the tests).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?= --clients 20

# What is imported is compiled once and kept, wherever else Python is told not to: every command here starts faster.
export PYTHONDONTWRITEBYTECODE =

.PHONY: run test test-all check docs setup clean

run: setup
	$(BIN)/python simulations/run.py $(ARGS)

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: setup
	$(BIN)/python -m pytest -n 2 -m ""

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The API reference, into build/docs (open index.html). All modules are named, since pdoc leaves out those of a
# package that lists its public names in __all__.
MODULES = $(patsubst %/__init__.py,%,$(shell find fedunlearn -name '__init__.py' | sort)) \
	$(basename $(shell find fedunlearn -name '[a-z]*.py' | sort))
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[docs]"
	@$(BIN)/python -W ignore -m pdoc --docformat google --output-directory build/docs $(subst /,.,$(MODULES))

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: fedunlearn needs Python 3.11 or newer; this is Python %d.%d (choose another: make PYTHON=python3.11 ...)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev,encoders]"
	@touch $@

clean:
	rm -rf $(VENV)
