# Every target creates what it needs: a fresh machine with Python 3.11, git and make is enough.
PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
BIN := .venv/bin
# `test-full` and `bench` ask what others publish; these come without their own dependencies, which
# would bring another torch.
PEERS := cellmap-models==0.2.4 dacapo-ml==0.3.5
PEERS_NEED := lazy-loader ml-collections 'pydantic>=2,<2.14' tqdm funlib.geometry 'universal-pathlib<0.3'

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# torch goes first: as a dependency of something else, pip may choose another build of it.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
@echo "Setting up $(1) (torch first, this takes a few minutes)"
@$(PYTHON) -m venv $(1)
@$(1)/bin/python -m pip install --quiet --constraint $(2) torch
@$(1)/bin/python -m pip install --quiet --constraint $(2) --editable '.[dev]'
endef

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-lowest bench lint format types cards check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed ## the main job, end to end, against an embedded Hub
	$(BIN)/cosemzoo demo

test: .venv/.installed ## the tests
	$(BIN)/pytest -n 2 -m "not full" $(PYTEST_ARGS)

test-full: .venv-full/.installed ## full-size runs and real peer packages (slow, needs several GB of memory)
	.venv-full/bin/pytest -m full $(PYTEST_ARGS)

test-lowest: .venv-lowest/.installed ## the tests, with the lowest versions of the dependencies
	.venv-lowest/bin/pytest -n 2 -m "not full" $(PYTEST_ARGS)

bench: .venv-full/.installed ## time and memory next to what else loads the same network (slow, needs 16 GB of memory)
	.venv-full/bin/python -m benchmarks $(BENCH_ARGS)

lint: .venv/.installed ## ruff: rules and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venv/.installed ## ruff: repair what it can, and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: .venv/.installed ## mypy --strict
	$(BIN)/mypy --strict

cards: .venv/.installed ## check the cards of the runs
	$(BIN)/cosemzoo card check model_cards/*.md

check: ## everything that must pass before a change is merged
	bash .ci/run

clean: ## remove the environments and everything generated
	rm -rf .venv .venv-full .venv-lowest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	$(call install,.venv,constraints.txt)
	@touch $@

.venv-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(call install,.venv-lowest,constraints-lowest.txt)
	@touch $@

.venv-full/.installed: pyproject.toml constraints.txt
	$(call install,.venv-full,constraints.txt)
	@.venv-full/bin/python -m pip install --quiet --constraint constraints.txt $(PEERS_NEED)
	@.venv-full/bin/python -m pip install --quiet --no-deps $(PEERS)
	@.venv-full/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bioimageio]'
	@touch $@
