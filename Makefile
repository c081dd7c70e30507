# What one does with a checkout. `make help` lists it.
#
# Everything lives in .venv, made by the first target that needs it; the stamps in it say what is
# installed. PYTHON=/path/to/python3.12 chooses the interpreter.

ifndef PYTHON
PYTHON := $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
endif
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=
DEMO := simulate digits --clients 20 --partition dirichlet --alpha 0.5 --rounds 40 --epochs 10 \
	--batch-size 10 --learning-rate 0.3 --central

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint lint-style lint-format lint-types lint-floors format operators docs serve bench protos tasks clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/made ## Make the virtual environment

demo: $(VENV)/simulate ## Train digits over 20 virtual clients under secure aggregation, and centrally
	$(BIN)/cloister $(DEMO)

test: $(VENV)/dev ## Run the tests but the long ones; PYTEST_ARGS="-k gate" chooses
	$(BIN)/python -m pytest -n auto -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/dev ## Run the long proofs: killed processes, load
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: lint-style lint-format lint-types lint-floors ## Check style, types and that no floor imports one above it

lint-style: $(VENV)/dev
	$(BIN)/ruff check .

lint-format: $(VENV)/dev
	$(BIN)/ruff format --check .

lint-types: $(VENV)/dev
	$(BIN)/mypy

lint-floors: $(VENV)/dev
	$(BIN)/lint-imports

format: $(VENV)/dev ## Let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

operators: $(VENV)/dev ## Write docs/operators.md anew from the compiler's tables
	$(BIN)/python docs/operator_tables.py

docs: $(VENV)/dev ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

serve: $(VENV)/dev ## Show the documentation at http://127.0.0.1:8000 while writing it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(VENV)/dev ## Run all benchmarks and write docs/benchmarks.md; QUICK=1 repeats less
	$(BIN)/python benchmarks/run_all.py $(if $(QUICK),--quick)

protos: $(VENV)/build ## Generate the code of the .proto files anew
	$(BIN)/python hatch_build.py protos

tasks: $(VENV)/build ## Compile the built-in aggregations anew
	$(BIN)/python hatch_build.py tasks

clean: ## Delete the virtual environment and all that was generated
	rm -rf $(VENV) site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f protos/cloister_protos/*_pb2* wasm_tasks/cloister_tasks/aggregations/*.wasm
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; say PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Installing runs hatch_build.py, which generates and compiles what git does not hold.
$(VENV)/simulate $(VENV)/dev: $(VENV)/%: pyproject.toml hatch_build.py | $(VENV)/made
	@echo "Installing into $(VENV); the first time takes a minute or two."
	$(PIP) install --quiet --editable '.[$*]'
	@touch $@

$(VENV)/build: pyproject.toml | $(VENV)/dev
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'])" \
		| xargs $(PIP) install --quiet
	@touch $@
