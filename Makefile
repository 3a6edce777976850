# The commands of the README. Everything runs from .venv; stamps make the second run quick.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := $(CURDIR):$(CURDIR)/kernels
# The packages are installed uncompiled: the first process that imports one compiles it for those after it.
unexport PYTHONDONTWRITEBYTECODE
# mypy and manage.py read the settings, which want a state directory: not the one of `make up`.
CHECKS := AURORA_STATE_DIR=$(CURDIR)/$(VENV)/state
# The ring with real parts, and an operator's first morning in the browser.
CORE_TESTS := tests/integration tests/browser/test_console.py
# A process more than there are cores, since many tests wait; each has a Postgres and a Valkey of its own.
UNIT_TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -n $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 4 )) --dist worksteal

# SGLang pins other packages than Aurora: it lives in an environment of its own. On a CPU that has stand-ins for its GPU
# kernels; DEVICE=cuda takes SGLang as it is published, for the same tests and bench on a GPU.
DEVICE ?= cpu
SGLANG := .venv-sglang$(if $(filter cuda,$(DEVICE)),-cuda)
RUN_SGLANG := AURORA_SGLANG_DEVICE=$(DEVICE) AURORA_SGLANG_PYTHON=$(CURDIR)/$(SGLANG)/bin/python $(BIN)/python
PLUGIN_SOURCES := deploy/sglang/pyproject.toml $(shell git ls-files serving speculators)

.PHONY: up down status setup oidc test types unit test-all test-model test-long test-browser soak check bench bench-web openapi screenshots lock
.PHONY: sglang-cpu sglang-cuda sglang-plugin test-sglang test-sglang-launches bench-sglang test-gpu bench-gpu gpu

# Newer requirements are not installed below what runs: `up` says that it does.
up:
	@$(MAKE) --no-print-directory -q $(VENV)/.runtime 2>/dev/null || \
		$(BIN)/python -m aurora_web.supervisor status >/dev/null 2>&1 || $(MAKE) --no-print-directory $(VENV)/.runtime
	@$(BIN)/python -m aurora_kernels.native
	@exec env $(if $(DEMO),AURORA_DEMO=$(DEMO)) $(BIN)/python -m aurora_web.supervisor up

# To stop or to look, nothing is installed: what runs was started by the environment as it is.
down status:
	@if [ -e $(VENV)/.runtime ]; then exec $(BIN)/python -m aurora_web.supervisor $@; \
	else echo "Aurora: nothing runs here: this checkout has not been started yet"; [ $@ = down ] || exit 3; fi

setup: $(VENV)/.dev

# The packages that AURORA_OIDC_ISSUER needs (docs/production.md); nothing else of Aurora does.
oidc: $(VENV)/.runtime
	@$(BIN)/pip install -q --disable-pip-version-check -c requirements-torch.txt -r requirements.txt -r requirements-oidc.txt

# Ten minutes on two cores, the environment included; what takes longer or depends on time is in the targets below it.
test:
	@$(MAKE) --no-print-directory -j2 $(VENV)/.dev $(VENV)/.chromium
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory -j2 types $(VENV)/.compiled
	@$(MAKE) --no-print-directory unit
	$(BIN)/python -m pytest $(CORE_TESTS)

# What the tests import, compiled once: else each of their processes does that at the same time. Tests that cannot be
# collected are the next command's to report.
$(VENV)/.compiled: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/unit --collect-only -qq >/dev/null || true
	@touch $@

types: $(VENV)/.dev
	$(CHECKS) $(BIN)/mypy

unit: $(VENV)/.dev
	$(UNIT_TESTS)

test-all: test test-model test-long test-browser soak test-sglang test-sglang-launches

# The default target, a real LLM: fetched once (93 MB) into the environment.
$(VENV)/models/smollm2: $(VENV)/.dev
	@$(BIN)/python -m serving.model_sources smollm2 --out $@
	@touch $@

test-model: $(VENV)/models/smollm2
	AURORA_TEST_MODEL=$(CURDIR)/$< $(BIN)/python -m pytest tests/model

test-long: $(VENV)/.dev
	$(UNIT_TESTS) -m long

test-browser: $(VENV)/.dev $(VENV)/.chromium
	$(BIN)/python -m pytest tests/browser

soak: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit -m timed

# Needs a CUDA GPU and a torch built for it (PyPI's is, on Linux), and says so where either is missing.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest tests/gpu --durations=5

bench-gpu: $(VENV)/.dev
	$(BIN)/python -m tests.bench.bench_gpu throughput

# All that a GPU machine with a network can say: the trainer on it, then SGLang as it is published. What fails keeps
# nothing else from running.
gpu:
	@$(MAKE) --no-print-directory --keep-going DEVICE=cuda test-gpu bench-gpu test-sglang test-sglang-launches bench-sglang

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory -j2 types unit

bench: $(VENV)/.dev $(VENV)/.chromium
	$(BIN)/python -m tests.bench

# Pages on a full database (3 GB below tests/bench/output, kept for the next run), sockets, ingest, latency.
bench-web: $(VENV)/.dev $(VENV)/.chromium
	$(BIN)/python -m tests.bench $(if $(QUICK),--quick) pages watchers ingest live

screenshots: $(VENV)/.dev $(VENV)/.chromium
	$(BIN)/python -m tests.browser.screenshots

# docs/openapi.json, from the code; a test compares them.
openapi: $(VENV)/.dev
	@$(CHECKS) $(BIN)/python manage.py write_openapi

sglang-cpu: $(SGLANG)/.plugin

sglang-cuda:
	@$(MAKE) --no-print-directory DEVICE=cuda .venv-sglang-cuda/.plugin

sglang-plugin: $(VENV)/.dev
	@$(BIN)/pip wheel -q --disable-pip-version-check --no-deps -w dist ./deploy/sglang
	@rm -rf deploy/sglang/build deploy/sglang/aurora_sglang.egg-info
	@ls dist/aurora_sglang-*.whl

test-sglang: $(VENV)/models/smollm2 $(SGLANG)/.plugin
	AURORA_TEST_MODEL=$(CURDIR)/$< $(RUN_SGLANG) -m pytest tests/sglang --ignore tests/sglang/test_launch_lines.py \
	    -p no:cacheprovider -n 2 --dist loadfile --durations=10

# A server of its own for each test
test-sglang-launches: $(SGLANG)/.plugin
	$(RUN_SGLANG) -m pytest tests/sglang/test_launch_lines.py -p no:cacheprovider --durations=0

bench-sglang: $(VENV)/.dev $(SGLANG)/.plugin
	$(RUN_SGLANG) -m tests.bench sglang$(if $(filter cuda,$(DEVICE)),_gpu)

lock: $(VENV)/.dev
	$(BIN)/pip-compile -q --no-emit-index-url --no-emit-find-links --strip-extras --no-header requirements.in -o requirements.txt
	$(BIN)/pip-compile -q --no-emit-index-url --no-emit-find-links --strip-extras --no-header requirements-oidc.in -o requirements-oidc.txt
	$(BIN)/pip-compile -q --no-emit-index-url --no-emit-find-links --strip-extras --no-header requirements-dev.in -o requirements-dev.txt

# A bare Debian has python3 without ensurepip: install it when we may, say so when we may not.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Aurora needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) --version 2>&1): name another one, like make PYTHON=python3.12" >&2; exit 1; }
	@echo "Aurora: making the virtual environment"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || ( ./deploy/apt-install python3-venv && rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) )

# One call for all: pip resolves once. Without compiling everything ahead: of most packages little is ever imported.
# Of what pip says, the large downloads.
PIP_INSTALL = $(BIN)/pip install --no-compile --disable-pip-version-check --progress-bar off -r requirements-torch.txt -r requirements.txt
LARGE = sed -nuE 's@^ *Downloading (.*/)?([^ ]+) \(([0-9]{2,}\.?[0-9]* MB)\).*@  downloading \2, \3@p; s/^Installing collected packages.*/  installing what was downloaded/p'

$(VENV)/.runtime: requirements-torch.txt requirements.txt | $(VENV)/bin/pip
	@echo "Aurora: installing torch (the largest part) and the other packages; a few minutes the first time"
	@set -o pipefail; $(PIP_INSTALL) | $(LARGE)
	@touch $@

$(VENV)/.dev: requirements-torch.txt requirements.txt requirements-dev.txt | $(VENV)/bin/pip
	@echo "Aurora: installing torch (the largest part), the other packages and the tools of the tests"
	@set -o pipefail; $(PIP_INSTALL) -r requirements-dev.txt | $(LARGE)
	@touch $(VENV)/.runtime $@

$(VENV)/.chromium: | $(VENV)/bin/pip
	@command -v chromium >/dev/null || ./deploy/apt-install chromium fonts-dejavu-core
	@touch $@

.venv-sglang/.installed: tests/sglang/requirements.txt tests/sglang/requirements-nodeps.txt $(wildcard tests/sglang/standin/*.* tests/sglang/standin/sgl_kernel/*)
	@echo "Aurora: making an environment for SGLang on this CPU; two minutes and 1.8 GB"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D) || ( ./deploy/apt-install python3-venv && rm -rf $(@D) && $(PYTHON) -m venv $(@D) )
	@$(@D)/bin/pip install -q --disable-pip-version-check torch==2.13.0
	@$(@D)/bin/pip install -q --disable-pip-version-check -r tests/sglang/requirements.txt
	@$(@D)/bin/pip install -q --disable-pip-version-check --no-deps -r tests/sglang/requirements-nodeps.txt
	@$(@D)/bin/pip install -q --disable-pip-version-check --no-deps ./tests/sglang/standin
	@rm -rf tests/sglang/standin/build tests/sglang/standin/*.egg-info
	@echo "import aurora_cpu_standin" > $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/zz_aurora_cpu_standin.pth
	@touch $@

# WHEELS=DIR installs from a directory alone, for a GPU machine without a network.
.venv-sglang-cuda/.installed:
	@echo "Aurora: making an environment for SGLang on a GPU; many gigabytes"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D) || ( ./deploy/apt-install python3-venv && rm -rf $(@D) && $(PYTHON) -m venv $(@D) )
	@$(@D)/bin/pip install -q --disable-pip-version-check $(if $(WHEELS),--no-index --find-links $(WHEELS)) torch==2.13.0 sglang==0.5.21
	@touch $@

# The wheel itself is tested, not the working tree: what it forgets to pack is missed here.
$(SGLANG)/.plugin: $(SGLANG)/.installed $(PLUGIN_SOURCES)
	@rm -rf $(SGLANG)/dist && $(SGLANG)/bin/pip wheel -q --disable-pip-version-check --no-deps -w $(SGLANG)/dist ./deploy/sglang
	@$(SGLANG)/bin/pip install -q --disable-pip-version-check --no-deps --force-reinstall $(SGLANG)/dist/aurora_sglang-*.whl
	@rm -rf deploy/sglang/build deploy/sglang/aurora_sglang.egg-info
	@touch $@
