# `make` lists the targets. Everything installs into .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
ROWS ?= 1000000
CONNECTOR ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
.DEFAULT_GOAL := help

.PHONY: help setup demo generate fmt lint types imports drift unit contract conformance integration crash chaos test check bench clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Virtual environment in .venv with the dsync command, locked dependencies and PostgreSQL

$(STAMP): pyproject.toml uv.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/setup.sh
	@touch $(STAMP)

demo: setup ## Copy and verify a million rows of every type between two PostgreSQL servers
	@$(BIN)/dsync quickstart --rows $(ROWS)

generate: setup ## Write anew what is generated: gRPC stubs, the flow file's schema, the reference, the list of checks
	@$(BIN)/python scripts/generate.py

fmt: setup ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: setup ## Style and common mistakes
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: setup ## mypy --strict
	@$(BIN)/mypy

imports: setup ## The import rules of the layout
	@$(BIN)/lint-imports

drift: setup ## What is generated equals what it is made of
	@$(BIN)/python scripts/generate.py --check

unit: setup ## Tests without servers
	@$(BIN)/pytest tests/unit -q

contract: setup ## One suite per interface, over every implementation
	@$(BIN)/pytest tests/contract -q

conformance: setup ## The exam that every connector takes, by ours; CONNECTOR=postgres by one of them
	@$(BIN)/pytest tests/contract/conformance tests/integration/conformance -q -k '$(CONNECTOR)'

integration: setup ## Tests on real servers
	@$(BIN)/pytest tests/integration -q -n 2

crash: setup ## Processes killed at named points and at random times
	@$(BIN)/pytest tests/crash -q -n 2

chaos: setup ## Minutes of random writes and faults under a flow: CHAOS_SEED, CHAOS_MINUTES
	@$(BIN)/python -m tests.chaos.run

test: setup ## All tests
	@$(BIN)/pytest -q -n 2 --dist worksteal

check: lint types imports drift test ## What CI runs

bench: setup ## Measure against psql, pg_dump, pgcopydb and pgloader, side by side
	@$(BIN)/python -m benchmarks.run $(BENCH)

clean: ## Remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
