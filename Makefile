# One command each; the first makes the virtual environment, later ones find it ready.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# torch is named in the pip command, or a package that depends on it may pull another build.
TORCH := torch==2.13.0

.PHONY: demo test test-all setup browser lint types unit unit-all bench clean

demo: setup
	$(BIN)/p2pkit demo

# While working: lint, types and all tests but the slow ones; before a change goes in: all tests.
test: setup browser lint types unit

test-all: setup browser lint types unit-all

setup: $(READY)

$(READY): pyproject.toml constraints.txt tools/system_packages.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"p2pkit needs Python 3.11 or later; $(PYTHON) is " + sys.version.split()[0] + \
	": name another one, such as `make setup PYTHON=python3.12`")'
	tools/system_packages.sh $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing p2pkit and what it needs into $(VENV): some minutes and 3 GB the first time"
	$(BIN)/python -m pip install -qq -c constraints.txt 'pip>=23.1' $(TORCH) -e '.[dev]'
	$(BIN)/p2pkit doctor --install minkowski
	@touch $@

browser:
	tools/test_browser.sh

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup
	$(BIN)/basedpyright

# One thread: with more, MinkowskiEngine's sums are not the same to the bit between runs. A file's
# tests stay in one process: what they share is made once, and what must run alone does.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

unit: setup
	$(PYTEST)

unit-all: setup
	$(PYTEST) -m ""

bench: setup
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
