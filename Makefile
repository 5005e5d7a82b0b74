# Everything you can do with a checkout. Each target first installs what it needs (scripts/), and says so.

SHELL := bash
PYTHON := .venv/bin/python
# The Docker engine of the tests and the benchmark: make test ENGINE=newest ARGS=tests/engine
ENGINE ?= installed
ENGINE_installed := bash scripts/engine.sh
ENGINE_newest := bash scripts/engine_newest.sh
WITH_ENGINE = $(or $(ENGINE_$(ENGINE)),$(error ENGINE must be installed or newest, not $(ENGINE))) with
# Further arguments for pytest, the benchmark and others: make test ARGS='-k store'
ARGS ?=
# Most tests wait for processes, so that two at a time take little more than half the time. ARGS='-n 0': one at a time
TOGETHER := -n 2
# The number of simulated clusters: make simulate-faults SEEDS=100000
SEEDS ?= 2000

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check bench bench-million bench-scheduler cluster-demo pipeline-demo chaos soak \
	simulate simulate-faults cluster-up cluster-down setup engine-newest engine-stop clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run a batch in real containers on this machine, and check every result
	@bash scripts/setup.sh cluster
	@$(WITH_ENGINE) $(PYTHON) examples/demo.py

test: setup ## run all tests, with a real Docker engine and a real Ray
	@bash scripts/tools.sh
	@bash scripts/cluster_tools.sh
	@bash scripts/mongo.sh
	@$(WITH_ENGINE) $(PYTHON) -m pytest $(TOGETHER) --durations=25 $(ARGS)

test-fast: setup ## run the unit tests, which need neither Docker nor Ray nor MongoDB, with fewer random examples
	@$(PYTHON) -m pytest tests/unit $(TOGETHER) -m "not mongo" --hypothesis-profile=fast $(ARGS)

check: setup ## check lint, formatting, types and which part imports which
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy examples/*.py examples/pipeline/[lp]*.py benchmarks/*.py
	@$(dir $(PYTHON))lint-imports --no-cache --no-logo

bench: setup ## compare Orqal with docker run, the plain SDK and Swarm; writes build/bench.json
	@$(WITH_ENGINE) $(PYTHON) benchmarks/bench.py $(ARGS)

bench-scheduler: setup ## measure decisions, waiting jobs and 1,000 jobs a second; writes build/bench-scheduler.json
	@$(WITH_ENGINE) $(PYTHON) benchmarks/scheduler.py $(ARGS)

bench-million: setup ## submit, list, back up, cancel and clean a million jobs, and measure time and memory
	@$(WITH_ENGINE) $(PYTHON) benchmarks/million.py $(ARGS)

cluster-demo: setup ## ray up, 300 jobs and ray down on a cluster of three hosts, all on this machine (as root)
	@$(ENGINE_installed) install
	@bash scripts/cluster_tools.sh
	@$(PYTHON) -m tests.cluster.demo $(ARGS)

pipeline-demo: setup ## a pipeline of three apps over 1,000 inputs on such a cluster, twice; every result is checked (as root)
	@$(ENGINE_installed) install
	@bash scripts/cluster_tools.sh
	@$(PYTHON) -m tests.cluster.pipeline $(ARGS)

chaos: setup ## kill random parts of such a cluster, and check that no job is lost (as root)
	@$(ENGINE_installed) install
	@bash scripts/cluster_tools.sh
	@bash scripts/mongo.sh
	@$(PYTHON) -m tests.cluster.chaos $(ARGS)

soak: setup ## run short jobs without pause for an hour, and check that nothing grows
	@$(WITH_ENGINE) $(PYTHON) -m tests.system.soak $(ARGS)

simulate: setup ## simulate weeks of a cluster under load, compare with a bound and fair shares; draws build/simulate
	@$(PYTHON) -m benchmarks.simulate $(ARGS)

simulate-faults: setup ## run SEEDS simulated clusters in which everything may die, and check that no job is lost
	@$(PYTHON) -m orqal.testing.simulate_faults --seeds $(SEEDS) $(ARGS)

cluster-up: setup ## start a cluster of three hosts on this machine and explain how to use it (as root)
	@$(ENGINE_installed) install
	@bash scripts/cluster_tools.sh
	@$(PYTHON) -m tests.cluster.command_line up

cluster-down: ## remove that cluster (as root)
	@$(PYTHON) -m tests.cluster.command_line down

setup:
	@bash scripts/setup.sh cluster,dev

engine-newest: setup ## build a newest Docker engine for the tests (as root); make test ENGINE=newest uses it
	@$(ENGINE_newest) build

engine-stop: ## stop the Docker engine if it was started here
	@$(ENGINE_installed) stop

clean: engine-stop ## remove .venv and everything that was built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
