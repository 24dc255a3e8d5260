# Everything runs in .venv, which `make setup` makes with plain venv and pip from the pins of requirements.txt.

PYTHON ?= python3
PRESET ?= demo
RUN ?= runs/$(PRESET)
SEEDS ?=
FACTS ?=
BIN := .venv/bin
STAMP := .venv/.installed
EXTRAS := .venv/.extras
PEERS := .venv/.peers

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick check bench bench-gpu torture table1 table2 table3 table4 tables clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { printf "  make %-24s %s\n", $$1, $$2 }' Makefile
	@echo "  Tables are made for PRESET=$(PRESET) in RUN=$(RUN), and again for SEEDS=\"1 2\" to see which concepts come back;"
	@echo "  FACTS=\"--run.root /data\" changes facts of the preset's run.yaml."

setup: $(STAMP) ## make .venv and install the pinned packages (instant the second time)

demo: $(STAMP) ## the whole method on the embedded default: the tables in miniature and the report
	$(BIN)/ard demo --out runs/demo

# Threads that wait at a barrier sleep: two test processes on two cores would otherwise spin against each other.
test quick: export OMP_WAIT_POLICY ?= PASSIVE

# A file stays with one process, which makes its fixtures once; those with slow tests come first (tests/conftest.py).
TESTS := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP) $(EXTRAS) $(PEERS) ## the tests
	$(TESTS)

quick: $(STAMP) $(EXTRAS) $(PEERS) ## the tests without the slow ones, while you work
	$(TESTS) -m "not slow"

check: $(STAMP) ## lint, format, types and the direction of imports: what pre-commit and CI run
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) $(PEERS) ## time what has to be fast, beside plain code and other libraries; writes docs/bench.md
	$(BIN)/python -m experiments.bench

bench-gpu: $(STAMP) $(PEERS) ## the same on a GPU, in four minutes; writes docs/bench-gpu.md
	$(BIN)/python -m experiments.bench_gpu

torture: $(STAMP) ## try on purpose what goes wrong for users, in one table; fails if anything falls short
	$(BIN)/python -m experiments.torture

# A p-value below .05, by Holm over four shifts, needs 80 random draws or more.
table3: LONG := $(if $(filter demo,$(PRESET)),--run.num_draws 100 --run.num_steered 24)

table1 table2 table3 table4: table%: $(STAMP) ## one table of the paper, for PRESET
	$(BIN)/ard table $* --preset $(PRESET) --out $(RUN) $(LONG) $(FACTS)
	@for seed in $(SEEDS); do \
	$(BIN)/ard table $* --preset $(PRESET) --out $(RUN)-$$seed --seed $$seed $(LONG) $(FACTS) || exit; done
	$(if $(SEEDS),$(BIN)/ard seeds $(RUN) $(SEEDS:%=$(RUN)-%))

tables: table1 table2 table3 table4 ## all of them

clean: ## remove .venv and the caches (never runs/)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find ard experiments tests -type d -name __pycache__ -prune -exec rm -rf {} +

# pip's own lines stay visible: the first install takes minutes and must not look as if it hangs.
$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "ard needs Python 3.11 or newer, and there is no '$(PYTHON)' here: \
	install it, or name it: make setup PYTHON=/path/to/python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ard needs Python 3.11 or newer, and \
	'$(PYTHON)' is $$($(PYTHON) -V 2>&1): name a newer one: make setup PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r requirements.txt
	$(BIN)/pip install --no-deps -e .
	@touch $(STAMP)

# What only some models need, kept apart from everything else: see requirements-extras.txt.
$(EXTRAS): requirements-extras.txt $(STAMP)
	$(BIN)/pip install --no-deps --upgrade --target .venv/extras -r requirements-extras.txt
	@rm -rf .venv/extras/tests # laion-clap ships its own tests as a top-level package
	@rm -f .venv/extras/torchaudio/lib/*.so # for CUDA; all that is used of it is Python
	@touch $(EXTRAS)

# The libraries that ours is compared with: see requirements-peers.txt.
$(PEERS): requirements-peers.txt $(STAMP)
	$(BIN)/pip install --no-deps --upgrade --only-binary :all: --target .venv/peers -r requirements-peers.txt
	@touch $(PEERS)
