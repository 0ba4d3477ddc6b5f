# What a newcomer runs: `make demo`, `make airflow`, `make test`. Everything installs into .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo airflow test test-all lint types tests clean

help:
	@echo "make demo      retrain a classifier end to end in a real Airflow, then stop it"
	@echo "make airflow   the same Airflow, left running with its UI"
	@echo "make test      lint, types and the tests, but those that are long by nature"
	@echo "make test-all  the long ones, too"
	@echo "make clean     delete .venv and everything the demo made"

install: $(STAMP)

# torch comes first and pinned: without it pip would pick a build with several GB of CUDA.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m demo

airflow: $(STAMP)
	$(BIN)/python -m demo --serve

test: lint types tests

test-all: SELECTED :=
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
