# `make demo` and `make test` set up everything they need on a fresh machine.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test check format clean

# The environment is rebuilt when pyproject.toml changes. uv installs torch in half a minute where pip takes minutes.
$(BIN)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[dev]"
	touch $@

demo: $(BIN)/.ready  ## encode and decode real speech with the bundled weights
	$(BIN)/python recipes/demo.py

test: $(BIN)/.ready  ## every test
	$(BIN)/python -m pytest

check: $(BIN)/.ready  ## lint, format and types: nothing may be reported
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
