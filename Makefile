# One command each; the first creates the virtual environment, later ones reuse it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_FOR_TESTS := $(VENV)/.ready-for-tests
# torch is named in the pip command, or a package that depends on it may pull another build.
TORCH := torch==2.13.0

# `make install MINKOWSKI=--cuda` builds MinkowskiEngine for CUDA even if no GPU is found.
MINKOWSKI ?=

.PHONY: demo test test-all install setup browser lint types unit unit-all bench clean

demo: install
	$(BIN)/p2pkit demo

# While working: lint, types and all tests except the slow ones; before a change is merged: all tests.
test: setup browser lint types unit

test-all: setup browser lint types unit-all

# `install` has what p2pkit needs, `setup` also what its tests need. Neither fails without
# MinkowskiEngine: p2pkit then uses its torch engine, and one line says what is missing.
install: $(READY)

setup: $(READY_FOR_TESTS)

$(READY): pyproject.toml constraints.txt tools/system_packages.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"p2pkit needs Python 3.11 or later; $(PYTHON) is " + sys.version.split()[0] + \
	": name another one, such as `make setup PYTHON=python3.12`")'
	tools/system_packages.sh $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing p2pkit into $(VENV), some minutes: 1.7 GB with a CPU build of torch," \
	"5.5 GB with a CUDA build"
	$(BIN)/python -m pip install -qq -c constraints.txt 'pip>=23.1' $(TORCH) -e .
	$(BIN)/p2pkit doctor --install minkowski $(MINKOWSKI) || true
	@touch $@

$(READY_FOR_TESTS): $(READY)
	tools/system_packages.sh --open3d $(PYTHON)
	@echo "installing what the tests need: 2.2 GB more"
	$(BIN)/python -m pip install -qq -c constraints.txt $(TORCH) -e '.[dev]'
	@touch $@

browser:
	tools/test_browser.sh

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup
	$(BIN)/basedpyright

# One thread: with more, MinkowskiEngine's sums are not the same to the bit between runs. A file's
# tests stay in one process: shared fixtures are made once, and tests that must run alone do.
# Compiled modules are kept, whatever the environment says: tests start many processes.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

unit: setup
	$(PYTEST)

unit-all: setup
	$(PYTEST) -m ""

bench: setup
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
