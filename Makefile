# What a newcomer needs: `make run` and `make test`. Everything else is listed by `make help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ISOLOAD := ../shared/tools/isoload

SECONDS ?= 60
SEED ?=
CASE ?=
ACQUIRER ?=
SEEDS ?= 500
FRAMES ?= 1000000
SCENARIO ?= smoke
ROW ?=

.DEFAULT_GOAL := help
.PHONY: help run test check format simulate demo chaos chaos-faults chaos-long failover load bench bench-long bench-setup bench-policy bench-codec conformance fuzz fuzz-atheris cutoff replace-kills swaps lock clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## Start a gateway with two simulated acquirers and three terminals.
	@$(BIN)/python -m loadtest show --config config/gateway.toml

test: $(VENV)/.dev ## Install what the tests need and run all of them.
	@# Each of the hundreds of processes that tests start would compile all of it anew where Python
	@# is told to leave no bytecode behind. The files that take long, e2e, go first.
	@$(BIN)/python -m compileall -q gateway loadtest tests
	@$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev ## Format, lint, types and import rules; changes nothing.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## Format the code and mend what the linter can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

conformance: $(VENV)/.dev ## Read and write back the messages that others published; prints a table.
	@$(BIN)/python -m tests.conformance

fuzz: $(VENV)/.dev ## Put FRAMES=1000000 changed frames through framing, codec and inspection; prints counts.
	@$(BIN)/python -m tests.fuzz --frames $(FRAMES) $(if $(SEED),--seed $(SEED))

fuzz-atheris: $(VENV)/.dev ## The same guided by coverage, for SECONDS=60, where atheris is installed.
	@$(BIN)/python -m tests.fuzz.guided -max_total_time=$(SECONDS)

simulate: $(VENV)/.dev ## Crash, cut and repeat in virtual time, SEEDS=500 times; a seed that fails is named.
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

demo: $(VENV)/.runtime ## Ten seconds of purchases over TLS, then compare all ledgers.
	@$(BIN)/python -m loadtest demo --seconds 10 --json

chaos: $(VENV)/.runtime ## Kill, stop and cut off everybody for a minute, then compare all ledgers.
	@$(BIN)/python -m loadtest chaos --seconds $(SECONDS) --terminals 200 $(if $(SEED),--seed $(SEED)) --json

chaos-faults: $(VENV)/.dev ## See that chaos finds a gateway out whose promises are broken on purpose.
	@GATEWAY_CHAOS_FAULTS=1 $(BIN)/pytest -q tests/e2e/test_chaos.py -k found_out

chaos-long: $(VENV)/.runtime ## The same for six minutes: more than 200 SIGKILLs.
	@$(BIN)/python -m loadtest chaos --seconds 360 --terminals 200 $(if $(SEED),--seed $(SEED)) --json

failover: $(VENV)/.runtime ## Sicken an acquirer under load in every way (or CASE=mute), and count the failures.
	@$(BIN)/python -m loadtest failover $(if $(CASE),--case $(CASE)) $(if $(ACQUIRER),--acquirer $(ACQUIRER)) --json

load: $(VENV)/.runtime ## Run a load test (SCENARIO=smoke, or its file) and write a page about it.
	@mkdir -p var/loadtest
	@$(BIN)/python -m loadtest run $(SCENARIO) --report var/loadtest/report.html

bench-setup: $(VENV)/.runtime ## Make the certificates and blocklists that the benchmark uses.
	@$(BIN)/python -m loadtest.bench --setup-only

bench: $(VENV)/.runtime ## Measure the gateway with isoload, if that is there (ROW=plain: that row).
	@$(BIN)/python -m loadtest.bench --isoload $(ISOLOAD) $(if $(ROW),--only $(ROW))

bench-long: $(VENV)/.runtime ## The same and a million transactions, and ten million kept ones.
	@$(BIN)/python -m loadtest.bench --isoload $(ISOLOAD) --long

bench-policy: $(VENV)/.runtime ## Load a million blocked cards and 100,000 BIN ranges, and ask for some.
	@$(BIN)/python -m loadtest.bench_policy

bench-codec: $(VENV)/.runtime ## Time decode and encode of a purchase, by pyiso8583 and compiled.
	@$(BIN)/python -m loadtest.bench_codec

replace-kills: $(VENV)/.dev ## Kill the daemon at 50 random points of a device's replacement: before or after, never between.
	@$(BIN)/python -m tests.support.replace_kills 50 $(SEED)

cutoff: $(VENV)/.runtime ## Block 100 terminals while 500 others buy: how soon each is cut off.
	@$(BIN)/python -m loadtest cutoff --trials 100 --json

swaps: $(VENV)/.runtime ## Put 1,000 configurations in force under load, and hold each decision to one.
	@$(BIN)/python -m loadtest swaps --swaps 1000 --json

lock: ## Pin and hash the requirements anew (needs uv).
	for set in runtime dev; do \
	  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" requirements/$$set.in -o requirements/$$set.txt; \
	done

clean: ## Remove what runs and builds have left; keeps certs/ and var/.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environment: made once, and again when the requirements change.
$(VENV)/bin/python:
	@echo "Making the Python environment in $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the gateway needs ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@
