# `make demo` and `make test` are the only commands needed; each prepares .venv first if it has to.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# For every pip, also the one that prepares an isolated build (older pips read the first, newer the second).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test lint wheel clean

help:
	@echo "make demo    train at 600 K, sample at 300 K, compare with a reference: $(OUTPUT)/report.html"
	@echo "make test    run the tests"
	@echo "make lint    check style and formatting"
	@echo "make clean   remove $(VENV) and what was built"

demo: $(INSTALLED)
	$(BIN)/python scripts/train_600K_sample_300K.py --output $(OUTPUT)

# Two processes: on a machine with more cores, give their number.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(BIN)/ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

wheel: $(INSTALLED)
	rm -rf build dist
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[test]"
	touch $@

$(BIN)/ruff: constraints.txt | $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt ruff
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
