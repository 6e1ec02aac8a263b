PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quick why test faults scale lint clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Trains the three architectures on a generated translation task and prints the table.
quick: setup
	$(BIN)/seqbench run quick

# Section 4 of "Attention Is All You Need" from measurements on this machine; SCALE=standard trains models as well.
# Not into results/why, where another machine's lie.
SCALE ?= quick
why: setup
	$(BIN)/seqbench why --scale $(SCALE) --study why-here

test: setup
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# Kills a study of twelve cells fifty times and checks that nothing is lost: some ten minutes.
faults: setup
	$(BIN)/python -m tests.benchmark.faults.kill_study

# What the supervisor costs for each cell, a study of 100,000 records, and five million pairs: ten minutes and more, alone.
scale: setup
	$(BIN)/python -m tests.benchmark.scale.measure_scale

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
