.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3.11
# PyTorch's CPU index, for instance; pip goes on at once where it is empty or not reached.
TORCH_INDEX_URL ?=
PIP := .venv/bin/python -m pip --disable-pip-version-check
RUN := .venv/bin/python -m
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
SCATTER := .venv/.scatter
READY := .venv/.ready

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Build .venv with all that the demo and the tests need

$(READY): pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(PIP) install --retries 0 $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) "$$(grep -i '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e '.[demo,river,confluent,dev]'
	touch $@

$(SCATTER): $(READY)
	MAX_JOBS=1 $(PIP) install --no-build-isolation -c constraints.txt torch-scatter
	touch $@

scatter: $(SCATTER) ## Compile torch-scatter into .venv (4 minutes)

demo: $(READY) ## Learn real flights from an embedded broker while predicting them over HTTP
	.venv/bin/flexihash demo

test: $(READY) ## Run the tests; those on Apache Kafka too where KAFKA_HOME names its folder
	$(RUN) pytest

test-letters: $(READY) ## Run the tests of what cannot be learned, dead letters and their replay; KAFKA_HOME as above
	$(RUN) pytest tests/letters

test-hostile: $(READY) ## Run the tests of what others may do to it; KAFKA_HOME as above
	$(RUN) pytest tests/hostile

test-recovery: $(READY) ## Run the tests that kill, damage and fill up; KAFKA_HOME as above
	$(RUN) pytest tests/recovery

check: $(READY) ## Check style, types, import directions, and the pinned packages for known vulnerabilities
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(RUN) tests.audit

BENCH := .venv/.bench
$(BENCH): $(READY)
	$(PIP) install -c constraints.txt -e '.[bench]'
	touch $@

bench: $(BENCH) ## Measure speed and quality beside the peers into bench/results (an hour on two idle cores)
	$(RUN) bench

profile: $(BENCH) ## Draw a flame graph of the learner on flights: profile.svg
	$(RUN) bench.profile

up: ## Start Kafka, the service and the test producer in containers
	DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1 $(COMPOSE) up -d --build

down: ## Stop the containers; what was learned stays
	$(COMPOSE) down

test-docker: $(READY) ## Try the containers for real; needs a Docker engine
	TEST_DOCKER=1 $(RUN) pytest tests/docker

BROWSER := .venv/.browser
$(BROWSER): $(READY)
	$(PIP) install -c constraints.txt -e '.[browser]'
	touch $@

test-browser: $(BROWSER) ## Try the documentation page in Chromium, which CHROMIUM names (/usr/bin/chromium)
	$(RUN) pytest tests/browser

ROUNDS ?= 60
soak: $(READY) ## Kill the service ROUNDS times on a real broker, and compare with the log
	$(RUN) tests.recovery.soak --rounds $(ROUNDS)

clean: ## Remove .venv and everything built
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help setup scatter demo test test-letters test-hostile test-recovery check bench profile up down test-docker test-browser soak clean
