# What a newcomer runs: `make demo`, `make airflow`, `make test`. Everything installs into .venv.
# The first of these that is there and can make a virtual environment, unless PYTHON names one.
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
WORKS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for name in $(PYTHONS); do "$$name" -c "$(WORKS)" 2>/dev/null && echo "$$name" && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# The tests start hundreds of interpreters, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo airflow test test-all lint types tests clean

help:
	@echo "make demo      retrain a classifier end to end in a real Airflow, then stop it"
	@echo "make airflow   the same Airflow, left running with its UI"
	@echo "make test      lint, types and the tests, but those that are long by nature"
	@echo "make test-all  the long ones, too"
	@echo "make clean     delete .venv and everything the demo made"

install: $(STAMP)

# Modules are compiled when they are first imported: of all that is installed few are.
# torch comes first and pinned: without it pip would pick a build with several GB of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c "$(WORKS)" 2>/dev/null || { \
	  echo "No Python from 3.11 to 3.14 that has venv is among: $(or $(PYTHON),$(PYTHONS))." >&2; \
	  echo "Install one (Debian: apt-get install python3-venv), or name it: make PYTHON=/path/to/python3 ..." >&2; \
	  exit 1; }
	@echo "Setting up $(VENV) with $$("$(PYTHON)" --version) ($(PYTHON))"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m demo

airflow: $(STAMP)
	$(BIN)/python -m demo --serve

test: lint types tests

test-all: SELECTED :=
test-all: export RETRAINER_EXAMPLES := 200
test-all: test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Whole chains with a real model and the like, beyond what guards each promise.
SELECTED := -m "not long"
tests: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(SELECTED)

clean:
	rm -rf $(VENV) .airflow .demo
