# Two commands matter: `make demo` runs the main job, `make test` passes the tests. Both do all their own set-up.
SHELL := /bin/bash
PY := .venv/bin/python
.PHONY: help setup demo test lint bench docs testbed-up testbed-down testbed-status

help:
	@echo 'make demo    the main job on real traffic, in one go (root; replays a recording elsewhere)'
	@echo 'make test    every test this machine can run'
	@echo 'make lint    formatter, linter, types, import contracts'
	@echo 'make bench   the benchmarks, as ratios against peers'
	@echo 'make testbed-up, testbed-down, testbed-status    a real Kubernetes on this machine (ARGS=--api-only: no nodes)'
	@echo 'make docs    write the reference pages again from the code'

setup:
	@scripts/setup

demo: setup
	@$(PY) -m ringfence demo $(ARGS)

# What needs the machine to itself (kernel, real Kubernetes) runs alone; the rest two at a time. Both halves always run.
test: setup
	@failed=0; \
	$(PY) -m pytest -q -n 2 --dist loadfile -m 'not real and not testbed' $(ARGS) || [ $$? = 5 ] || failed=1; \
	$(PY) -m pytest -q -m 'real or testbed' $(ARGS) || [ $$? = 5 ] || failed=1; \
	exit $$failed

lint: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench:
	@scripts/setup --group bench
	@for each in bench/*.py; do echo "== $$each"; $(PY) $$each || exit 1; done

docs: setup
	@$(PY) scripts/reference.py

testbed-up testbed-down testbed-status:
	@python3 -m testbed $(@:testbed-%=%) $(ARGS)
