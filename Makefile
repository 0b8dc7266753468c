# Two commands do all: `make demo` and `make test`. Each makes the virtual environment it needs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Exact versions of all that is installed. Empty (`make CONSTRAINTS= test`): the newest of everything.
CONSTRAINTS ?= constraints.txt
PINNED := $(if $(CONSTRAINTS),PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS))

.PHONY: help demo test oldest search check format generated constraints clean

help: ## What can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PINNED) $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Compile the shop, serve a model, slow it down, and read the verdict
	@$(BIN)/python docs/demo.py

test: $(STAMP) ## All tests
	$(BIN)/pytest -n auto

# The oldest Python that is promised is Debian 12's, which brings no pip. CI tries others with a PIP of their own.
OLDEST ?= /usr/bin/python3.11
OLDEST_VENV := $(VENV)-oldest
PIP ?= $(BIN)/pip

oldest: $(if $(findstring $(BIN),$(PIP)),$(STAMP)) ## The loader's and the command line's tests on the oldest Python, in 4 GB
	$(OLDEST) -m venv --without-pip --clear $(OLDEST_VENV)
	$(PINNED) $(PIP) --quiet --disable-pip-version-check --python $(OLDEST_VENV)/bin/python install \
		--editable . hypothesis pytest pytest-xdist ruamel.yaml
	ulimit -v 4000000 && $(OLDEST_VENV)/bin/python -m pytest -n auto tests/load tests/cli tests/install/test_expressions.py

search: $(STAMP) ## Ten times the property tests, each time with other examples
	for round in 1 2 3 4 5 6 7 8 9 10; do \
		HYPOTHESIS_PROFILE=random $(BIN)/pytest -n auto -m hypothesis || exit; done

check: $(STAMP) ## Format, lint, types, layers, workflows, and that generated/ is up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --strict-collection --quiet .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/modelway check --quiet

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generated: $(STAMP) ## Make anew all that is made: schemas, generated/, the reference of docs/
	$(BIN)/python -m modelway.spec.generate
	$(BIN)/modelway compile
	$(BIN)/modelway schema --output policies/schemas
	$(BIN)/python docs/make_reference.py

# uv resolves for every Python and platform at once, which pip cannot; it installs nothing.
UV := $(VENV)-uv
COMPILE := $(UV)/bin/uv pip compile --quiet --no-annotate
IMAGE := $(COMPILE) --no-header --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--constraint constraints.txt

constraints: ## Pin the newest of everything: constraints.txt, and from it what the image installs
	$(PYTHON) -m venv $(UV)
	$(UV)/bin/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --universal --upgrade --python-version 3.11 --custom-compile-command "make constraints" \
		--extra dev --extra gpu pyproject.toml --output-file constraints.txt
	$(IMAGE) --extra runtime --extra detect --extra restart pyproject.toml --output-file runtime/requirements/cpu.txt
	$(IMAGE) --extra gpu --extra torch --extra detect --extra restart pyproject.toml \
		--output-file runtime/requirements/gpu.txt
	$(IMAGE) runtime/requirements/build.in --output-file runtime/requirements/build.txt

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) $(UV) $(OLDEST_VENV) demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
