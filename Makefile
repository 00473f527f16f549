# Two commands do everything: `make demo` and `make test`. Each needs only Python >= 3.10 and a package index.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

# Processes that the tests are shared out to. They are more than the processors of a small machine, because tests of
# browsers, of Ray and of notebooks often wait; those of one kind stay in one process.
TEST_PROCESSES ?= 3
# An expression of markers that chooses tests.
TESTS ?= not slow
NOTEBOOKS ?=

# Where to look first for torch. The build for CPUs is a tenth the size of the one that PyPI has for Linux, which brings
# CUDA along, and the demo and the tests need no GPU. If this index has no answer, the ordinary one is asked;
# `make demo TORCH_INDEX=` asks only the ordinary one.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
SETUP := pyproject.toml constraints.txt

.PHONY: help demo test test-all notebooks docs lint wheel format clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1@/p' Makefile | awk -F@ '{ printf "%-15s%s\n", $$1, $$2 }'

demo: $(VENV)/.package  ## dream on the embedded model, print the frontier, write a page
	@$(BIN)/python -m dreamy_lens.demo

test: $(VENV)/.test  ## run the tests and the examples in docstrings, without the slowest tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup -m "$(TESTS)" $(PYTEST_ARGS)

test-all:  ## run every test
	@$(MAKE) --no-print-directory test TESTS=

notebooks: $(VENV)/.test  ## execute notebooks and write them with their outputs
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/execute.py $(NOTEBOOKS)

docs: $(VENV)/.docs  ## build the documentation site in build/docs, with warnings as errors and without a network
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	@echo "Open build/docs/index.html"

lint: $(VENV)/.dev  ## ruff, its formatter, pyright, the layers of the package, private names
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_private.py dreamy_lens training

wheel: $(VENV)/.test  ## build the wheel, install it instead of the checkout, and run the demo from it in an empty folder
	@tools/try_wheel $(BIN)/python

format: $(VENV)/.dev  ## let ruff mend and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each step of the installation leaves a stamp, so that it runs once, and again when the versions change.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo "dreamy_lens needs Python 3.10 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)."; \
	    echo "Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it needs the package python3-venv."; exit 1; }
	@touch $@

# torch goes first and alone, or the resolver would take the newest build from the ordinary index.
$(VENV)/.torch: $(VENV)/.python constraints.txt
	@echo "Installing $(TORCH) into $(VENV) (the first time this is a download of about 200 MB)"
	@$(PIP) install --quiet "pip>=22"
	@test -z "$(TORCH_INDEX)" || \
	    $(PIP) install --retries 0 --timeout 15 --no-deps --index-url "$(TORCH_INDEX)" $(TORCH) 2>/dev/null || \
	    echo "$(TORCH_INDEX) has no $(TORCH) for this machine: taking it from the ordinary index"
	@$(PIP) install --quiet --constraint constraints.txt $(TORCH)
	@touch $@

$(VENV)/.package: $(VENV)/.torch $(SETUP)
	@echo "Installing dreamy_lens and what it needs (a minute or two)"
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.package
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.docs: $(VENV)/.package
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@$(BIN)/python -c 'import sphinx' 2>/dev/null || { echo "Sphinx needs Python 3.11 or newer: make PYTHON=python3.12 docs"; exit 1; }
	@touch $@

# One installation of everything: after it, nothing is left to do for the other stamps.
$(VENV)/.dev: $(VENV)/.torch $(SETUP)
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[test,dev]'
	@touch $(VENV)/.package $(VENV)/.test $@
