# `make up` starts the course site; `make test` proves it. Each sets up what it needs first.
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 8000
BIND ?= 127.0.0.1
export PYTHON PORT BIND
VENV := .venv/bin

.PHONY: help up down test lint bench book labs deep lock gpu
help:
	@echo "make up          start the site on http://localhost:$(PORT) (DETACH=1: in the background)"
	@echo "make down        stop it"
	@echo "make test        linters, book build, whole test suite with the browser test (FRESH=1: also what passed before)"
	@echo "make bench       benchmarks into benchmarks/results.json (BENCH=name for one)"
	@echo "make book        build the book only"
	@echo "make labs        regenerate labs/ from solutions/"
	@echo "make deep        labs' tests under 20 seeds and against mutants: hours; reports in benchmarks/deep/"
	@echo "make gpu         on a machine with a GPU: the book and every notebook in the GPU tier"
	@echo "make lock        rewrite requirements/ from pyproject.toml"

# `exec`: Ctrl-C and signals reach the site itself.
up:
	@scripts/setup course
	@exec $(VENV)/distlab course up $(if $(DETACH),--detach)

down:
	@if [ -x $(VENV)/distlab ]; then exec $(VENV)/distlab course down; fi

test:
	@scripts/setup dev
	@scripts/check

lint:
	@scripts/setup dev
	@scripts/lint

bench:
	@scripts/setup dev
	@$(VENV)/python -m benchmarks $(BENCH)

book:
	@scripts/setup course
	@$(VENV)/distlab course book

labs:
	@scripts/setup course
	@$(VENV)/distlab course check-labs --write

deep:
	@scripts/setup dev
	@set -e; for lab in solutions/mod-*-lab-*/; do \
		$(VENV)/distlab course check-lab "$$(basename $$lab)" --deep; done

gpu:
	@scripts/setup dev
	@$(VENV)/distlab doctor --require-gpu
	@$(VENV)/distlab course book --force
	@$(VENV)/python -m pytest tests/labs tests/train tests/bench tests/record

lock:
	@scripts/setup dev
	@PATH="$(CURDIR)/$(VENV):$$PATH" scripts/lock
