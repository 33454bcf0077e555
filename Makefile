# Everything the project does, from a machine that has only Python 3.11+, make and a network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: run test slow matrix fuzz lint bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

run: $(STAMP)  ## check the CPU, the kernels and five real sets of page tables
	$(BIN)/harness check

test: $(STAMP)  ## every test but the long sweeps
	$(BIN)/pytest -n auto

slow: $(STAMP)  ## the long sweeps
	$(BIN)/pytest -n auto -m slow

matrix: $(STAMP)  ## every combination of both matrices, with 4 and 5 levels
	mkdir -p build
	$(BIN)/harness matrix classic --html build/classic.html --junit build/classic.xml
	$(BIN)/harness matrix full --html build/full.html --junit build/full.xml

fuzz: $(STAMP)  ## a million random cases, and every planted bug
	mkdir -p build
	$(BIN)/harness fuzz --cases 1000000 --planted --html build/fuzz.html --junit build/fuzz.xml

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## speed, as ratios within one run
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist .harness .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
