# The first call of a target that needs it creates .venv with the versions of constraints.txt; later calls reuse it.
# Two stamps: .venv/.core is what running PocketViT takes, .venv/.ready adds what developing it takes.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
CODE = src tests benchmarks
# A process a core with a thread each: the tests' networks are too small for two threads to share.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses logical --dist worksteal

.POSIX:
.SUFFIXES:
.NOTPARALLEL:
.PHONY: help setup demo test test-slow test-all lint format tables clean

help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.ready ## create .venv with everything, development tools included

demo: $(VENV)/.core ## train and report on the embedded digits, a few minutes on a CPU
	$(BIN)/pocketvit fit digits --recipe digits --out runs/demo --overwrite

test: $(VENV)/.ready ## run the test suite (PYTEST_ARGS='-k NAME' for a part)
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(VENV)/.ready ## run the slow tests, which `make test` leaves out
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: $(VENV)/.ready ## run the test suite, slow tests included
	$(PYTEST) -m "" $(PYTEST_ARGS)

lint: $(VENV)/.ready ## check style, types and the direction of imports
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready ## reformat the code and mend what can be mended safely
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

tables: $(VENV)/.core ## write the tables of README and docs from results/
	$(BIN)/python benchmarks/tables.py

clean: ## remove caches and build output; .venv, runs/ and results/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Run at the start of a stamp's recipe: creates .venv unless it is there, or says in one line why it cannot.
NEED_VENV = \
	test -x $(BIN)/python && exit 0; \
	hint="PocketViT needs Python 3.10 or newer: make PYTHON=/path/to/python3"; \
	command -v "$(PYTHON)" >/dev/null || { echo "PYTHON=$(PYTHON): no such program; $$hint" >&2; exit 2; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "PYTHON=$(PYTHON): this is $$("$(PYTHON)" -V 2>&1); $$hint" >&2; exit 2; }; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "PYTHON=$(PYTHON) cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 2; }; \
	echo "creating $(VENV), once; the pinned versions take minutes where torch has to be downloaded"; \
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt
	@$(NEED_VENV)
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(NEED_VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[bench,dev,track]'
	$(PIP) install --quiet -c constraints.txt --no-deps vit-pytorch
	@touch $(VENV)/.core $@
