# Each target does all of its own set-up in ./.venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench

demo: .venv/zoo.installed
	$(BIN)/python -m burnish.tools.demo

test: .venv/dev.installed
	$(BIN)/python -m pytest

bench: .venv/bench.installed
	$(BIN)/python -m burnish.tools.bench -o docs/benchmarks.md

.venv/zoo.installed: EXTRAS := zoo
.venv/dev.installed: EXTRAS := zoo,dev
.venv/bench.installed: EXTRAS := zoo,bench

.venv/%.installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'burnish needs Python 3.11 or newer')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	touch $@
