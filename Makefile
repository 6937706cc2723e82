# The same commands on a laptop and in CI. `make` alone says what there is.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help setup check docs test test-slow demo bench lock clean

help:
	@echo "make setup      the environment in .venv, from requirements-dev.lock"
	@echo "make check      ruff, mypy, and whether the pages of docs/ build"
	@echo "make docs       write docs/reference from the code, build the pages into site/"
	@echo "make test       the tests, except those marked slow"
	@echo "make test-slow  the tests marked slow"
	@echo "make demo       everything once on CIFAR-10, about six minutes"
	@echo "make bench      one replica against two, into benchmarks/results"
	@echo "make lock       resolve pyproject.toml again into requirements-dev.lock"

setup: $(INSTALLED)

# uv sits in the environment itself, so that nothing need be installed beforehand; the lock file keeps it. The bytecode is
# made once here: Ray starts many processes, each of which would else compile what it imports.
$(INSTALLED): requirements-dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; name another with PYTHON=…" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "creating $(VENV)" >&2; $(PYTHON) -m venv $(VENV); }
	@test -x $(BIN)/uv || { echo "installing uv" >&2; $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@echo "installing what requirements-dev.lock pins" >&2
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --require-hashes --compile-bytecode requirements-dev.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet

docs: setup
	$(BIN)/python docs/generate_reference.py
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

test: setup
	$(BIN)/pytest -m "not slow"

test-slow: setup
	$(BIN)/pytest -m slow

demo: setup
	@$(BIN)/raycls demo

bench: setup
	$(BIN)/python benchmarks/serving.py --replicas 1,2

lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --group dev --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build site *.egg-info
