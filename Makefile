# Everything runs in a virtual environment of its own, made from pinned constraints on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.made
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SIMULATE := $(BIN)/python tests/simulation/explore.py
CHAOS    := PYTHONPATH=tests $(BIN)/python -m chaos
PROOFS   := tests/simulation tests/fuzz tests/chaos
JOBS     ?= $(shell nproc)
PYTEST   := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: help demo test prove fuzz simulate faults chaos soak guarantees docs lint format bench clean

help:  ## What there is
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "genlock needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@# Of what is installed, little is ever imported: that is compiled then, and the rest never.
	$(BIN)/pip install --quiet --no-compile --editable '.[test,lint]'
	@touch $@

demo: $(STAMP)  ## Four workers change model together under load, and prove it
	@$(BIN)/genlock demo $(ARGS)

test: $(STAMP)  ## The tests of both parts, with their coverage
	@rm -f .coverage .coverage.*
	$(PYTEST) --cov --cov-report= $(PROOFS:%=--ignore=%) $(ARGS)
	@$(BIN)/coverage report --fail-under=90

prove: fuzz simulate faults  ## Fuzzing, 2,000 simulated schedules, every rule switched off once, and a short chaos

fuzz: $(STAMP)  ## The tests of simulation, fuzzing and chaos; one after the other, because some of them partition the loopback
	$(BIN)/python -m pytest $(PROOFS)

simulate: $(STAMP)  ## 2,000 schedules, and every rule of the protocol switched off once
	$(SIMULATE) --seeds 2000 --jobs $(JOBS) --report build/simulation.json
	$(SIMULATE) --rules --jobs $(JOBS) --report build/rules.json

faults: $(STAMP)  ## A short chaos: one fault of each sort on a real fleet
	$(CHAOS) --short --report build/chaos-short.json

chaos: $(STAMP)  ## Everything that can happen happens to real fleets, and every answer is checked: a quarter of an hour
	$(CHAOS) --seconds 620 --report build/chaos.json $(ARGS)

soak: $(STAMP)  ## The same for an hour; with SEEDS=20000 as many simulated schedules instead
	$(if $(SEEDS),$(SIMULATE) --seeds $(SEEDS) --first $(or $(FIRST),2000) --jobs $(JOBS) --report build/soak-simulation.json,$(CHAOS) --seconds 3600 --report build/soak.json $(ARGS))

guarantees: $(STAMP)  ## Writes the tables of docs/guarantees.md from the last make prove and make chaos; REPORTS="A.json B.json": from these runs
	PYTHONPATH=tests $(BIN)/python -m chaos.guarantees --chaos $(or $(REPORTS),build/chaos.json) --simulation build/simulation.json --rules build/rules.json

docs: $(STAMP)  ## Writes the pages that are made from the code: settings, command line, HTTP
	PYTHONPATH=tests $(BIN)/python -m docs.reference

lint: $(STAMP)  ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## Put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## Every figure of benchmarks/README.md, as a ratio measured in one run
	@$(BIN)/python -m benchmarks $(ARGS)

clean:  ## Remove what make made
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
