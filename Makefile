# Two commands matter: `make run` and `make test`. The other targets are single steps.
EXPERIMENT ?= experiments/demo.yml
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3 2>/dev/null))
REQUIREMENTS := requirements.txt requirements-no-deps.txt requirements-dev.txt
SNAKEMAKE = env PATH=$(abspath $(BIN)):$$PATH $(BIN)/snakemake --snakefile Snakefile --cores all --nolock \
	--rerun-incomplete --quiet progress rules host reason --config experiment=$(EXPERIMENT) --
# Two processes, a file of tests at a time: most tests keep one core busy.
PYTEST = $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: check help run seed craft train evaluate judge findings plan book publish test test-fast bench lint environment clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## */\1\t/' | expand -t 40

run: environment  ## run the whole experiment and build the book (EXPERIMENT=experiments/mine.yml for your own)
	@$(BIN)/python -m cotlib run $(EXPERIMENT) -- $(SNAKEMAKE) all

craft train evaluate judge findings: environment  ## run one stage and those before it
	@$(BIN)/python -m cotlib run $(EXPERIMENT) -- $(SNAKEMAKE) $@

plan: environment  ## show what `make run` would do
	@$(BIN)/snakemake --cores all --nolock --dry-run --config experiment=$(EXPERIMENT)

book: environment  ## render the published run's book into _build/html, running nothing
	@$(BIN)/python -m cotlib book book/executed _build/html

publish: environment  ## make a finished run the published one: book/executed and book/results
	@$(BIN)/python -m cotlib publish $(EXPERIMENT)

test: environment  ## all tests
	@$(PYTEST)

test-fast: environment  ## the tests that take seconds
	@$(PYTEST) -m "not slow"

seed: environment  ## make one seed of an experiment and keep its numbers in book/results (SEED=1)
	@$(BIN)/python -m cotlib seed $(EXPERIMENT) $(SEED)

bench: environment  ## measure the hot paths against their usual alternatives (half an hour)
	@$(BIN)/python benchmarks/run.py

lint: environment  ## check style, and that imports run downward only
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/python -m pytest -q tests/test_layers.py
	@echo "lint: clean"

environment: $(VENV)/.installed  ## create .venv with the pinned packages

check: environment  ## say what an experiment file asks for, or what is wrong with it
	@$(BIN)/python -m cotlib check $(EXPERIMENT)

$(VENV)/.installed: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; say where it is: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing the environment into $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq -r requirements.txt -r requirements-dev.txt
	@$(BIN)/pip install -qq --no-deps -r requirements-no-deps.txt
	@$(BIN)/pip install -qq --no-deps --editable .
	@touch $@

clean:  ## remove results and built pages (not the environment, not book/executed)
	@rm -rf results _build .snakemake
