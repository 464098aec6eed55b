# The two commands that matter: `make run` to see it work, `make test` before you send a change.
# `make help` lists the rest. All of them set up what they need, once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# The first Python of 3.11 or later that can make a virtual environment. PYTHON=... names another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
ONCE ?=
ARGS ?=
SEED ?=
LONG ?=

say = @printf '\033[1m==>\033[0m %s\n' $(1)

.PHONY: help run test test-all test-pods chaos hostile lint format docs bench soak toolchains clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/installed  ## Start the embedded daemon, run one job per language, keep serving (ONCE=1: exit after the table)
	$(call say,'Starting runnerd: one example job for every language that this machine has')
	@exec $(BIN)/python -m runnerd demo $(if $(ONCE),--once) $(ARGS)

test: lint  ## Lint, types, layers and the daily suite: minutes, no cluster (ARGS=... goes to pytest)
	$(call say,'Tests: the daily suite')
	@$(BIN)/pytest -m 'not slow and not pods and not chaos' $(ARGS)

test-all: lint  ## The above and all that is slow: every language, hostile programs, chaos, the built wheel, the bench once, pods
	$(call say,'Tests: everything')
	@$(BIN)/pytest -m 'not pods' $(ARGS)
	$(call say,'Bench: a few samples to see that it runs')
	@$(BIN)/python -m bench --quick
	$(MAKE) test-pods

test-pods: $(VENV)/developing  ## Pods and the Helm chart on a real Kubernetes: KUBECONFIG's, else one made here (Debian, as root)
	$(call say,'Tests: pods')
	@tests/cluster/run agent daemon bash c-cpp javascript python -- $(BIN)/pytest -m pods $(ARGS)

chaos: $(VENV)/developing  ## Daemons, brokers and stores killed by a schedule of chance (SEED=7 replays one, BUS=nats on one bus, LONG=1 takes more)
	@$(if $(SEED),SEED=$(SEED)) $(if $(LONG),LONG=$(LONG)) $(if $(BUS),BUS=$(BUS)) $(BIN)/pytest -m chaos $(ARGS)

hostile: $(VENV)/developing  ## Hostile programs at every level
	@$(BIN)/pytest tests/hostile $(ARGS)

lint: $(VENV)/developing  ## ruff, mypy, import-linter, README tables
	$(call say,'Lint and types and layers')
	@$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet || { echo 'Run `make format`.' >&2; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports > /dev/null || $(BIN)/lint-imports
	$(BIN)/python docs/tables.py --check

format: $(VENV)/developing  ## Format the code and sort the imports
	@$(BIN)/ruff check --quiet --fix --select I
	$(BIN)/ruff format

docs: $(VENV)/developing  ## Write the tables in README.md anew, from the code
	@$(BIN)/python docs/tables.py

bench: $(VENV)/developing  ## Measure: ratios on the screen and in bench/out/latest.json
	@$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/developing  ## 100 000 jobs, and what is left over after them
	@$(BIN)/python -m bench.soak $(ARGS)

toolchains:  ## Install the tool chains of all languages (Debian, as root)
	@.ci/toolchains

clean:  ## Remove what the targets above made
	@rm -rf $(VENV) build dist bench/out *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find runnerd plugins tests bench docs -name __pycache__ -prune -exec rm -rf {} +

# --- set-up: each stamp is made once, and again when pyproject.toml has changed ---------------------------------

$(BIN)/python:
	@if [ -z '$(PYTHON)' ]; then
	  echo 'runnerd needs Python 3.11 or later with its venv module, and there is none on PATH.' >&2
	  if command -v apt-get >/dev/null; then
	    echo 'Install it with:  apt-get install python3 python3-venv' >&2
	  else
	    echo 'Install Python 3.11 or later, or name one: make PYTHON=/path/to/python3' >&2
	  fi
	  exit 1
	fi
	printf '\033[1m==>\033[0m %s\n' 'Making a virtual environment in $(VENV) with $(PYTHON)'
	'$(PYTHON)' -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(call say,'Installing runnerd and what it needs (about a minute the first time)')
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/developing: pyproject.toml | $(BIN)/python
	$(call say,'Installing runnerd with its tools for development (about a minute the first time)')
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/installed
