# Two commands do all: `make demo` and `make test`. Both set up what they need.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO_ARGS ?=
# A file of tests stays with one worker, so that what it sets up is set up once.
SIDE_BY_SIDE := -n logical --maxprocesses 8 --dist loadfile
PROTOS := $(wildcard protos/camproto/v1/*.proto)

# Straight after an installation the kernel keeps the written libraries in large pieces and maps them
# whole, so the memory of a process looks 40 MiB larger than on a device, which has read them from
# its disk. Let the kernel forget them once, so that memory figures are those of a device.
define SETTLE
import os, pathlib, sys
for path in pathlib.Path(sys.prefix).rglob("*.so*"):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
endef
export SETTLE

.PHONY: demo check test bench proto lint types contracts clean help

help: ## what there is to run
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Python 3.11 or newer is needed: install it, or run make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); echo "python3 has no venv module: install it (Debian, Ubuntu: apt install python3-venv) and run make again"; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) (no torch, a minute at most) ..."
	@$(BIN)/python -m pip install --quiet -e '.[cloud,model]'
	@$(BIN)/python -c "$$SETTLE"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) for development ..."
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@$(BIN)/python -c "$$SETTLE"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## the main job on real video, embedded, no server, no torch
	@$(BIN)/camctl demo --fast $(DEMO_ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy

contracts: $(VENV)/.dev
	@$(BIN)/lint-imports --no-cache 2>/dev/null || $(BIN)/lint-imports

check: lint types contracts ## lint, types, contracts and the fast tests: under two minutes
	@$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not slow"

test: lint types contracts ## everything: under fifteen minutes on two cores
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone"
	@$(BIN)/python -m pytest -m alone

# hours each: they train or quantize with the peers' code, see their docstrings
LONG := $(addprefix benchmarks/,compression.py detection.py fidelity.py)

bench: $(VENV)/.dev ## the figures of the README; not compression, detection and fidelity, which take hours
	@for b in $(filter-out $(LONG),$(wildcard benchmarks/*.py)); do echo "== $$b"; $(BIN)/python $$b || exit 1; done

proto: $(VENV)/.dev ## regenerate the protobuf code
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --mypy_out=protos --grpc_python_out=protos --mypy_grpc_out=protos $(PROTOS)

clean: ## remove what the commands above made
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache
