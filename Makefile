# `make demo` and `make test` set up everything they need on a fresh machine.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13  # in which `make package` installs the package
VENV   := .venv
BIN    := $(VENV)/bin
NPM    := $(shell node -e 'process.exit(+(parseInt(process.versions.node) < 20))' 2>/dev/null && command -v npm)

.PHONY: demo test docs web check package format clean

# The environment is rebuilt when pyproject.toml changes. The demo needs less of it: no PyTorch, and without a C compiler no
# PESQ. A folder without pip is incomplete: Debian leaves one if python3-venv is missing. uv is faster than pip, which is
# used where uv fails.
$(BIN)/.ready: EXTRA = dev
$(BIN)/.demo: EXTRA = pesq
$(BIN)/.demo: OR_LESS = || $(BIN)/python -m pip install --disable-pip-version-check -e ".[eval]"  # without a C compiler
$(BIN)/.ready $(BIN)/.demo: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	{ $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5" \
		&& $(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[$(EXTRA)]"; } \
		|| $(BIN)/python -m pip install --disable-pip-version-check -e ".[$(EXTRA)]" $(OR_LESS)
	touch $@

demo: $(BIN)/.demo  ## encode and decode real speech with the bundled weights
	$(BIN)/python recipes/demo.py

test: $(BIN)/.ready $(NPM:%=web)  ## every test, in two processes; those of web/ if npm is installed
	$(if $(NPM),cd web && npx vitest run)
	$(BIN)/python -m pytest -n 2 --dist loadfile

web: web/dist/.ready  ## the page of `spectok web` and the npm package, into web/dist/; needs Node.js with npm

web/node_modules/.ready: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	touch $@

web/dist/.ready: web/node_modules/.ready web/build.js $(wildcard web/src/*.ts web/src/*/*.ts web/page/*)
	cd web && npm run --silent build
	touch $@

docs: $(BIN)/.ready  ## the documentation site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(BIN)/.ready $(NPM:%=web/node_modules/.ready)  ## lint, format and types: nothing may be reported
	$(if $(NPM),cd web && npx tsc --noEmit)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

package: $(BIN)/.ready  ## wheel and sdist into dist/; both are checked, and each is installed and used in an empty environment of PYTHONS
	rm -rf dist
	$(BIN)/uv build --quiet
	$(BIN)/uv tool run twine check --strict dist/*.whl dist/*.tar.gz
	set -e; for python in $(PYTHONS); do for file in dist/*.whl dist/*.tar.gz; do \
		$(BIN)/uv venv --quiet --clear --python $$python dist/empty; \
		$(BIN)/uv pip install --quiet --python dist/empty/bin/python $$file; \
		dist/empty/bin/spectok --version; \
		dist/empty/bin/spectok encode tests/data/librispeech_84_16k.flac dist/empty/speech.spt; \
		dist/empty/bin/spectok decode dist/empty/speech.spt dist/empty/speech.wav; \
		echo "$$file works with $$python"; \
	done; done
	rm -rf dist/empty

format: $(BIN)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) web/dist web/node_modules build dist demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
