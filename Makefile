# Two commands do everything on a fresh machine: make demo, make test.
# The hooks before a commit, .ci/run and the GitHub workflow check by these targets.
PYTHON ?= python3
BIN := .venv/bin
DIST ?= dist

.PHONY: install demo test test-all lint style format types build clean
.DEFAULT_GOAL := demo

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "exitbits needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/exitbits launch fashion --workers 2

# Half the tests wait for processes and browsers: one process a core, a file's tests together.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST)

test-all: install
	$(PYTEST) -m ''

lint: style format types

style: install
	$(BIN)/ruff check .

format: install
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The sdist first, then the wheel from the sdist, with the hatchling that the dev extra installed.
build: install
	$(BIN)/python -m build --no-isolation --outdir $(DIST)

clean:
	rm -rf .venv dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
