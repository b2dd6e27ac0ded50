# `make help` says what there is. On a fresh clone: Python 3.11 or newer with venv, make and git.
#
#   PYTHON=python3.12 make test       another interpreter, in an environment of its own
#   make test ARGS="-k store -x"      more arguments for pytest, or for `foreshock demo`
#   PIP_INDEX_URL=... make demo       another package index; pip reads it itself
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu make demo
#                                     takes torch from there: a CPU build, without GBs of CUDA

PYTHON ?= python3
VENV ?= $(if $(filter file,$(origin PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check
unexport PYTHONPATH PYTHONHOME
# As variables, because only so do old pips pin the build tools as well.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)

# Two stamps, so that a second `make` starts at once and the demo does not wait for test tools.
BASE := $(VENV)/.base-installed
DEV := $(VENV)/.dev-installed
JAX := $(VENV)/.jax-installed

.DEFAULT_GOAL := help
.PHONY: help demo test check battery bench docs jax clean
.DELETE_ON_ERROR:

help: ## say what there is
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(BASE) ## train a small network, watch it grok, write a report
	@$(BIN)/foreshock demo $(ARGS)

# The tests are many and small: two processes of one thread each beat one of two.
test: $(DEV) ## run the tests
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(ARGS)

check: $(DEV) ## lint, format, layers, types, doctests, documentation
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyrefly check --python-interpreter-path $(PY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --doctest-modules src
	@$(MAKE) --no-print-directory docs

battery: $(DEV) ## run every experiment with all its variants at small size
	$(BIN)/foreshock sweep all --small --jobs 2 --again --out runs/battery $(ARGS)

bench: $(DEV) ## measure what watching costs, and print ratios
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(PY) "$$script" $(ARGS); done

docs: $(DEV) ## build the documentation and run its examples
	OMP_NUM_THREADS=1 $(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	OMP_NUM_THREADS=1 $(PY) -m sphinx -q -W --keep-going -b doctest docs docs/_build/doctest

jax: $(JAX) ## install the optional JAX backend, 380 MB; its tests then run

clean: ## remove what was built, but neither environments nor runs
	rm -rf build dist docs/_build docs/_generated .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Foreshock needs Python 3.11 or newer. Got $$($(PYTHON) --version). Type: PYTHON=python3.12 make ..."; exit 1; }
	@echo "Installing into $(VENV): a minute or so, once."
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@test -z "$(TORCH_INDEX)" || $(PIP) --no-deps --index-url "$(TORCH_INDEX)" torch
	@$(PIP) -e ".[demo]"
	@touch $@

# Dependency groups need a newer pip than Python 3.11 brings.
$(DEV): $(BASE)
	@echo "Installing the tools for development into $(VENV)."
	@$(PIP) pip
	@$(PIP) --group dev
	@touch $@

# Apart from the tools: 380 MB that only the tests of one optional module need.
$(JAX): $(DEV)
	@echo "Installing JAX into $(VENV)."
	@$(PIP) -e ".[jax]"
	@touch $@
