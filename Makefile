# The same commands on a laptop and in CI. `make` alone says what there is.
# requirements-dev.lock has wheels for each of these; the first one that runs is taken, unless PYTHON names another.
PYTHONS := python3.11 python3.12 python3.13 python3
PYTHON ?= $(shell for python in $(PYTHONS); do $$python -c "import sys, venv, ensurepip; \
	sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DATASET ?= cifar10
IMPORTED := raycls.demo.run, raycls.serving.app, raycls.console.app, raycls.control_plane.app, raycls.reports.model_report, \
	ray.serve, ray.tune, ray.train.torch, mlflow, optuna.visualization, plotly.io, matplotlib.figure, sklearn.datasets, \
	captum.attr, openvino, nncf, timm, onnx, onnxscript, hypothesis
# Packages that import parts of themselves only when they are used, or in processes of their own.
COMPILED := ray psutil scipy mlflow sqlalchemy alembic mako aiohttp aiohttp_cors yarl multidict cryptography opentelemetry \
	pydantic pygments rich jinja2 openvino

.PHONY: help setup setup-browser setup-prometheus check docs test-unit test test-slow test-long test-gpu coverage train serve mlflow-ui demo bench lock clean

help:
	@echo "make setup      install what requirements-dev.lock pins into .venv, with Python 3.11, 3.12 or 3.13"
	@echo "make setup-browser     install Chromium from Debian, for the console's stories"
	@echo "make setup-prometheus  install Prometheus from Debian, for the story of the alerts, which is one of test-long"
	@echo "make check      ruff, mypy, and whether the pages of docs/ build"
	@echo "make docs       write docs/reference from the code, and build the pages into site/"
	@echo "make test-unit  the unit tests: they need no Ray"
	@echo "make test       the unit tests, then the integration tests on one Ray"
	@echo "make test-slow  the stories: whole runs that are killed, served under load, or follow the documentation"
	@echo "make test-long  the tests that CI leaves out: each takes half a minute or more, and what it tells seldom changes"
	@echo "make test-gpu   what training promises on a GPU, in about five minutes; without one, all of it is skipped"
	@echo "make coverage   all tests; prints the lines and branches of raycls/ that they cover"
	@echo "make train      prepare CIFAR-10 and train a model of it; DATASET=photos/ takes a folder of images"
	@echo "make serve      serve the champion at http://127.0.0.1:8000, until Ctrl-C"
	@echo "make mlflow-ui  MLflow's page with all runs and models, at http://127.0.0.1:5000"
	@echo "make demo       everything once on CIFAR-10, about four minutes"
	@echo "make bench      one replica against two, into benchmarks/results"
	@echo "make lock       resolve pyproject.toml again into requirements-dev.lock, and deploy/requirements.lock for the image"

setup: $(INSTALLED)

# uv is installed into the environment itself and is in the lock file, so that nothing must be installed first. The last two
# steps compile the bytecode of all modules that raycls imports, because Ray starts many processes at the same time.
$(INSTALLED): requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: none of $(PYTHONS) is a Python 3.11 to 3.13; name one with PYTHON=…" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "creating $(VENV) with $(PYTHON)" >&2; $(PYTHON) -m venv $(VENV); }
	@test -x $(BIN)/uv || { echo "installing uv" >&2; $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@echo "installing what requirements-dev.lock pins for $$($(BIN)/python --version)" >&2
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --require-hashes requirements-dev.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@echo "compiling bytecode" >&2
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import $(IMPORTED)"
	@$(BIN)/python -c "import compileall, importlib.util as util; [compileall.compile_dir(folder, quiet=2, workers=2) \
		for name in '$(COMPILED)'.split() for folder in util.find_spec(name).submodule_search_locations]"
	@touch $@

# What some stories use, where Debian's packages are. Without it, those stories are skipped.
setup-browser: setup
	@command -v chromium >/dev/null || { echo "installing Chromium" >&2; \
		apt-get update -qq && apt-get install -qq -y chromium >/dev/null; }

setup-prometheus: setup
	@command -v prometheus >/dev/null || { echo "installing Prometheus, without its service" >&2; \
		{ systemctl mask prometheus 2>/dev/null || true; } && \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends prometheus >/dev/null; }

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet

docs: setup
	$(BIN)/python docs/generate_reference.py
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

test-unit: setup
	$(BIN)/pytest tests/unit -n 2 --dist loadfile

test: test-unit
	$(BIN)/pytest tests/integration -m "not long"

test-slow: setup
	$(BIN)/pytest tests/stories -m "not long"

test-long: setup
	$(BIN)/pytest tests/integration -m long
	$(BIN)/pytest tests/stories -m long

test-gpu: setup
	@nvidia-smi -L 2>/dev/null || echo "NO GPU: nothing that needs one will be tested" >&2
	$(BIN)/pytest tests/gpu -n 0

# Each folder in a process of its own, as the targets above run them.
coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/unit -n 2 --dist loadfile
	$(BIN)/coverage run -m pytest tests/integration
	$(BIN)/coverage run -m pytest tests/stories
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	@$(BIN)/python .ci/coverage_totals.py

train: setup
	$(BIN)/raycls data prepare $(DATASET)
	$(BIN)/raycls train $(DATASET)

serve: setup
	$(BIN)/raycls up

mlflow-ui: setup
	$(BIN)/mlflow ui --backend-store-uri "$$($(BIN)/python -c 'from raycls import home; print(home.tracking_uri())')"

demo: setup
	@$(BIN)/raycls demo

bench: setup
	$(BIN)/python benchmarks/serving.py --replicas 1,2

lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --group dev --output-file requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --extra heic --extra postgresql --constraint requirements-dev.lock --output-file deploy/requirements.lock

clean:
	rm -rf $(VENV) build site *.egg-info .coverage .coverage.*
