# Everything a newcomer needs; `make` alone lists it. All set-up happens in .venv, pinned by constraints.txt.
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
SET_UP := $(VENV)/.set-up
RETOOL_SGLANG_HOME ?= $(HOME)/.cache/retool/sglang-cpu
SGLANG_SET_UP := $(RETOOL_SGLANG_HOME)/.set-up

# Programs in these have limits by the clock, which another test on the same processors would use up.
ALONE := $(wildcard tests/retool_env/test_sandbox*.py) tests/retool_env/test_verifier_workers.py

.PHONY: help setup demo test test-slow test-sglang setup-sglang lint docs format bench clean

help:
	@echo "make demo       teach a tiny model when to call Python, on two CPU cores; ends with runs/demo/report.html"
	@echo "make test       lint, types, documentation and tests (at most 15 minutes on two cores)"
	@echo "make test-slow  kill-and-resume and the full demo with its bars"
	@echo "make test-sglang  tests with a real SGLang server on the CPU; installs it once (3 GB, $(RETOOL_SGLANG_HOME))"
	@echo "make bench      measurements, each printed with the command that made it"
	@echo "make docs       the documentation as a site, in site/; ends at the first link that leads nowhere"
	@echo "make setup      only the set-up, in $(VENV)"
	@echo "make lint       ruff and mypy      make format  ruff's formatter      make clean  remove $(VENV) and caches"

setup: $(SET_UP)

$(SET_UP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "retool needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 2; }
	@echo "setting up $(VENV) (once; some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[train,ray,data,sandbox,serve,sweeps,docs,dev]'
	@touch $@

demo: $(SET_UP)
	$(BIN)/retool demo

test: lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not sglang" $(addprefix --ignore=,$(ALONE))
	$(BIN)/python -m pytest -m "not slow and not sglang" $(ALONE)

test-slow: $(SET_UP)
	$(BIN)/python -m pytest -m "slow and not sglang"

test-sglang: $(SET_UP) setup-sglang
	RETOOL_SGLANG_PYTHON=$(RETOOL_SGLANG_HOME)/bin/python $(BIN)/python -m pytest -m sglang -s --durations=10

setup-sglang: $(SGLANG_SET_UP)

# Outside of the repository: 3 GB, and the same for every checkout. What was downloaded is kept by pip's cache, so that
# a broken attempt goes on where it was.
$(SGLANG_SET_UP): tests/sglang_cpu/requirements.txt
	@echo "setting up SGLang for the CPU in $(RETOOL_SGLANG_HOME) (once; some minutes)"
	@$(PYTHON) -m venv $(RETOOL_SGLANG_HOME)
	@$(RETOOL_SGLANG_HOME)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps -r $<
	@touch $@

lint: $(SET_UP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Nothing is fetched: no fonts, no scripts from elsewhere.
docs: $(SET_UP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

format: $(SET_UP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(SET_UP)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/rollout.py
	$(BIN)/python benchmarks/longtail.py
	$(BIN)/python benchmarks/scorer.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/verifier.py
	$(BIN)/python benchmarks/environment.py
	$(BIN)/python benchmarks/harness.py
	$(BIN)/python benchmarks/size.py

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
