# Each target does all of its own set-up in ./.venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench

demo: .venv/zoo.installed
	$(BIN)/python -m burnish.tools.demo

test: .venv/dev.installed .venv/qemu.installed .venv/postgres.installed .venv/chromium.installed
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

bench: .venv/bench.installed
	$(BIN)/python -m burnish.tools.bench --tune 60 -o docs/benchmarks.md

.venv/zoo.installed: EXTRAS := zoo
.venv/dev.installed: EXTRAS := zoo,dev,compress
.venv/bench.installed: EXTRAS := zoo,bench,compress

# The emulator that runs ARM64 artifacts; without it, and without the right to install it, those tests are skipped.
.venv/qemu.installed: .venv/dev.installed
	command -v qemu-aarch64 >/dev/null || (apt-get update -qq && apt-get install -y -qq qemu-user) || echo "no qemu-user"
	touch $@

# The server that the tests of shared records start; likewise.
.venv/postgres.installed: .venv/dev.installed
	command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 \
	  || (apt-get update -qq && apt-get install -y -qq postgresql) || echo "no postgresql"
	touch $@

# The browser that runs web packages and pages; likewise.
.venv/chromium.installed: .venv/dev.installed
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium) || echo "no chromium"
	touch $@

.venv/%.installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'burnish needs Python 3.11 or newer')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	touch $@
