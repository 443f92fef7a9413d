# Every target sets itself up: `make quickstart` and `make test` each work alone in a fresh clone.
#
#   make quickstart   environment, install, then fine-tune a small model on shipped data and show what it learnt
#   make test         environment, install with the tools of development, the default tests
#   make test-slow    the tests that need the real model, long kill loops or ../shared
#   make check        format, lint, types, generated docs (all of them, whatever fails: make -k check)
#   make docs         write the generated docs anew
#
# Without an NVIDIA card, on Linux: TORCH_INDEX=https://download.pytorch.org/whl/cpu saves gigabytes of downloads.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
ARGS ?=

PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet
LINTED := $(wildcard tutelage tests examples docs bench)

.PHONY: quickstart test test-slow check check-format check-lint check-types check-docs docs clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.installed
	$(VENV)/bin/tutelage quickstart $(ARGS)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -m 'slow and not gpu' $(ARGS)

check: check-format check-lint check-types check-docs

check-format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check $(LINTED)

check-lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check $(LINTED)

check-types: $(VENV)/.installed-dev
	$(VENV)/bin/mypy

check-docs: $(VENV)/.installed-dev
	$(VENV)/bin/python docs/generate.py --check

docs: $(VENV)/.installed
	$(VENV)/bin/python docs/generate.py

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch comes first and alone: named by another package, pip would take its newest release, on Linux with CUDA.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tutelage needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(filter-out --quiet,$(PIP)) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
