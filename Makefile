# `make help` lists the targets. All but help, newest and clean set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
READY := $(VENV)/.ready
DEMO_OUT ?= demo-out

.DEFAULT_GOAL := help
.PHONY: help setup browser demo test fuzz faults newest oldest lint bench study clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with everything that the demo and the tests need

# torch goes first and pinned: an unpinned resolution may pick a CUDA build of several gigabytes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
# Without torchvision: PyPI's does not load beside a CPU build of torch, and then breaks every import of a transformers model.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps timm
	@touch $@

# Of Debian's packages, because no wheel holds one; elsewhere the tests of the page say that they need it.
browser: ## install Chromium for the tests of the page (Debian, Ubuntu)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium)

demo: $(READY) ## the main job: export, quantize, compile, run and compare the demo checkpoint
	$(BIN)/moir-edge demo -o $(DEMO_OUT) --force

# Two processes: most tests keep one core busy. What shares a process, and what starts first, says tests/scheduling.py.
# One thread in each: of two processes on two cores, each with two threads, the threads wait for each other and spin meanwhile.
test: $(READY) ## unit and end-to-end tests, and a short run of the fuzz suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

fuzz: $(READY) ## altered bundles, images, data and caches against every reader: some 10,000 cases (about 15 minutes)
	$(BIN)/python -m tests.fuzz

faults: $(READY) ## every writer killed, terminated, cut off from power and out of space at every step (about an hour)
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.faults.training

# Not an editable install, and `pytest` by its own name, with nothing put on its path: what is tested is the installed package. A `build` folder may hold deleted modules.
newest: ## a short suite on the newest releases of the dependencies (torch as pinned), in .venv-newest
	rm -rf build
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet -c $(NEWEST)/torch.txt torch
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -c $(NEWEST)/torch.txt '.[export,tune]' scikit-learn pytest
	$(NEWEST)/bin/pytest -o pythonpath= tests/releases

oldest: $(READY) ## the base install on the lowest versions that pyproject.toml admits
	$(BIN)/python -m pytest tests/e2e/test_base_install.py -k oldest

lint: $(READY) ## ruff, ruff format and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## the acceptance figures on 1,200 rows of the test split (about two minutes)
	$(BIN)/python -m benchmarks.quantization --acceptance -o $(DEMO_OUT)/acceptance.json

study: $(READY) ## train and measure every router and control, rewrite docs/study.md (hours, see --cost; resumes)
	$(BIN)/python -m benchmarks.study -o $(DEMO_OUT)/study --docs docs

clean: ## remove .venv, caches, the emulated board and the demo's output
	rm -rf $(VENV) $(NEWEST) $(DEMO_OUT) .arm64 build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
