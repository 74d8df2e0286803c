# make demo | test | lint | docs: each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
ARGS ?=

.PHONY: help demo test test-quick lint format docs setup clean
.DEFAULT_GOAL := help

help:  ## What there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

# The stamp is named after this folder: an environment that was moved along with its folder is made again.
READY := $(VENV)/.ready-$(shell pwd | cksum | cut -d' ' -f1)

setup: $(READY)  ## A virtual environment with the pinned requirements

# torch comes first and alone: whatever is installed with it must take the build that is chosen here.
$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "NeuroAlign needs Python 3.11 or later; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { rm -rf $(VENV) && $(PYTHON) -m virtualenv $(VENV); } || \
	  { echo "This Python cannot make virtual environments: install its venv module (Debian: python3-venv) or virtualenv."; exit 1; }
	@echo "Installing the pinned requirements into $(VENV) (a few minutes the first time) ..."
	@$(PIP) --no-compile $$(grep -E '^torch==' requirements.txt)
	@$(PIP) --no-compile -c constraints.txt -r requirements.txt
	@$(PIP) --no-deps --editable .
# pip compiles one file after the other, and the tests of the packages too. What cannot be compiled is not for this Python.
	@$(BIN)/python -m compileall -qq -j 0 -x '[/\\]tests[/\\]' $(VENV) || true
	@touch $@

$(READY)-dev: $(READY) requirements-dev.txt
	@$(PIP) -c constraints.txt -r requirements-dev.txt
	@touch $@

demo: setup  ## Make a small dataset, run the whole workflow on it, print where the report is
	@$(BIN)/python -m neuroalign run --config config/demo.yaml --cores $(CORES) $(ARGS)

# A file's tests share what takes long to make; tests/conftest.py says which files go first.
XDIST := -n $(CORES) --dist loadfile --no-loadscope-reorder

test: $(READY)-dev  ## All tests, the slow ones included
	@$(BIN)/python -m pytest $(XDIST) $(ARGS)

test-quick: $(READY)-dev  ## Only the quick tests
	@$(BIN)/python -m pytest $(XDIST) -m "not slow" $(ARGS)

lint: $(READY)-dev  ## ruff, snakefmt and snakemake --lint
	@$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .
	@$(BIN)/python -m snakefmt --check Snakefile workflow
	@$(BIN)/python -m snakemake --lint --configfile config/demo.yaml

format: $(READY)-dev  ## Format everything
	@$(BIN)/python -m ruff check --fix . ; $(BIN)/python -m ruff format . ; $(BIN)/python -m snakefmt Snakefile workflow

docs: setup  ## Write what is generated: the config schema and docs/configuration.md
	@$(BIN)/python -m neuroalign config --write

clean:  ## Remove results and the environment
	rm -rf $(VENV) .snakemake build *.egg-info
	find results -mindepth 1 ! -name .gitkeep -delete
