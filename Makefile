# Two commands do all: `make demo` and `make test`. Each makes the virtual environment it needs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test check format docs generated clean

help: ## What can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Compile the shop, serve a model, slow it down, and read the verdict
	@$(BIN)/python docs/demo.py

test: $(STAMP) ## All tests
	$(BIN)/pytest -n auto

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

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
