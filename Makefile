# Targets: demo quick test lint bench fuzz chaos corpus peers peers-stop lock clean.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo quick test lint bench fuzz chaos corpus lock peers peers-stop peers-install spark clean

# make demo HDFS=1 has the archive in a real HDFS on loopback (Java and Maven).
demo: $(VENV)/$(if $(HDFS),.dev,.run)
	$(BIN)/$(if $(HDFS),python -m tests.peers.demo,broker demo) $(if $(ONCE),--once)

# No server, no process: under a minute.
quick: $(VENV)/.dev
	$(BIN)/python -m pytest --quick -n 2 --dist loadfile $(ARGS)

# Two processes share the tests, each file in one of them. BUSY=1 keeps every core busy beside them.
test: $(VENV)/.dev peers-install
	$(BIN)/python $(if $(BUSY),-m tests.busy $(BIN)/python) -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# make bench ONLY='cstore*' measures a part; every run writes build/bench.json and docs/results.md holds the last whole one.
bench: $(VENV)/.dev peers-install
	$(BIN)/python -m tests.bench $(or $(ONLY),'*')

# make fuzz SECONDS=600 ONLY=hl7v2
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(ONLY),--only $(ONLY))

# make chaos KILLS=100 HDFS=1: with the archive in an HDFS, whose servers are killed too.
chaos: $(VENV)/.dev peers-install
	$(BIN)/python -m tests.chaos $(if $(KILLS),--kills $(KILLS)) $(if $(HDFS),--hdfs)

# make corpus EVERY=10; what came of the real files is in docs/results.md after DOCS=docs/results.md
corpus: $(VENV)/.dev peers-install
	$(BIN)/python -m tests.corpus $(if $(EVERY),--every $(EVERY)) $(if $(DOCS),--write-docs $(DOCS))

# HDFS, Orthanc, PostgreSQL and Redis on loopback, in the background until peers-stop; prints their addresses.
peers: $(VENV)/.dev peers-install
	@$(BIN)/python -m tests.peers start

peers-stop: $(VENV)/.dev
	@$(BIN)/python -m tests.peers stop

# Real peers of the tests: installed by apt when we may, else named; their tests are skipped then.
peers-install:
	@sh tests/peers/install.sh

# Half a gigabyte for one test of the peers: installed where it is asked for.
spark: $(VENV)/.dev
	$(PIP) install --require-hashes -r requirements/spark.lock

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing (about a minute the first time) ..."
	$(PIP) install --require-hashes -r requirements/run.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing (about a minute the first time) ..."
	$(PIP) install --require-hashes -r requirements/dev.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

# Needs uv. The locks name versions and hashes, no index.
LOCK := uv pip compile -q pyproject.toml requirements/build.in --extra demo --generate-hashes --no-strip-extras \
        --no-header --no-annotate --no-emit-index-url --python-version 3.11
lock:
	$(LOCK) -o requirements/run.lock
	$(LOCK) --group dev -c requirements/run.lock -o requirements/dev.lock

clean:
	rm -rf $(VENV) build broker-data .mypy_cache .ruff_cache .pytest_cache .hypothesis
