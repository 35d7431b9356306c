# Everything runs in a virtual environment of its own; `make demo` and `make test` need nothing but Python 3.11+.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo studio test test-fast checks bench bench-tune bench-rewards bench-studio screenshots clean

# torch first and by its exact version: an open range would fetch a much larger build on some machines.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

setup: .venv/ready
	$(BIN)/storyrl models pull

demo: setup
	@test ! -e runs/demo || mv runs/demo runs/demo-$$(date +%Y%m%d-%H%M%S)
	$(BIN)/storyrl tune --out runs/demo

studio: setup
	$(BIN)/storyrl studio

checks: .venv/ready
	$(BIN)/ruff check storyrl rewards prompts ui tests
	$(BIN)/ruff format --check storyrl rewards prompts ui tests
	$(BIN)/mypy

# Two at a time, each on one core: most of them wait for small things.
test-fast: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses 2

test: setup checks test-fast
	sh tests/install_browser.sh
	$(BIN)/python -m pytest -m slow

bench: setup
	$(BIN)/python tests/bench/decode.py

# About 25 minutes; on a machine that does nothing else.
bench-tune: setup
	$(BIN)/python -m tests.bench.tune

# DATA is the folder with the public sets that rewards/weights/README.md names.
bench-rewards: setup
	@test -d "$(DATA)" || { echo "make bench-rewards DATA=FOLDER: the folder with lamp/, nli/, ... (see rewards/weights/README.md)"; exit 2; }
	$(BIN)/python -m tests.bench.judges $(DATA)

# Chromium must be there (tests/install_browser.sh).
bench-studio: setup
	$(BIN)/python -m tests.bench.studio

screenshots: setup
	$(BIN)/python tests/screenshots.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
