# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := src/h2o_control src/wheel_leg_driver src/h2o_training

.PHONY: help install demo test golden faults fuzz bench-data bench-kill bench-twin bench-sysid bench-hard bench-loop bench-ratio lint build lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: requirements.lock $(PACKAGES:=/setup.py)
	@echo "Installing into $(VENV) (about 2 GB, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "Python 3.11 or 3.12 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-build-isolation --no-deps $(PACKAGES:%=-e %)
	@touch $@

install: $(VENV)/.installed ## Create the local environment from the lock file

demo: install ## The whole loop on an emulated robot: drive, record, train, deploy, judge
	@exec $(BIN)/h2o-robot demo $(ARGS)

test: install ## Run the whole test suite
	$(BIN)/python -m pytest $(ARGS)

faults: install ## Every fault in every state, on real nodes; writes docs/fault-matrix.md (45 minutes)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m faults --page docs/fault-matrix.md $(ARGS)

fuzz: install ## A hundred million damaged bytes through both codecs
	$(BIN)/python tests/fuzz_protocol.py --bytes 100000000 $(ARGS)

bench-data: install ## A million samples from a bag against rosbags, memory of an hour, the recorder's share of a core; writes docs/loading.md (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_data.py --page docs/loading.md $(ARGS)

bench-hard: install ## Policies from the ideal twin fall on `hard` where a static map stands and drives (20 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_hard.py $(ARGS)

bench-kill: install ## The recorder killed a hundred times; writes docs/recorder.md (15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_kill.py --page docs/recorder.md $(ARGS)

bench-loop: install ## Latency of the control loop at 200, 500 and 1000 Hz beside a bare ping-pong (25 minutes, quiet machine)
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_loop.py $(ARGS)

bench-ratio: install ## The dynamics ratio and H2O's gap against data for which both are known; writes docs/ratio.md (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_ratio.py --page docs/ratio.md $(ARGS)

bench-sysid: install ## Fifty robots drawn at random, driven for a minute each, identified: do the intervals hold? (30 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_sysid.py --jobs 2 --page docs/identification.md $(ARGS)

bench-twin: install ## Speed of the twins against a gymnasium loop, measured in the same run
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_twin.py $(ARGS)

golden: install ## Record the golden bags of bags/golden anew (4 minutes, quiet machine)
	OMP_NUM_THREADS=1 $(BIN)/python tests/make_golden_bags.py $(ARGS)

lint: install ## Lint, format check and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: install ## Build the workspace with colcon, as on a ROS machine
	$(BIN)/colcon build --metas colcon.meta

# The ROS wheels carry a second, egg-style name for each package; only the name that can be downloaded is kept.
lock: ## Pin what is installed now
	@$(BIN)/pip list --format=freeze --exclude-editable --exclude pip \
		| sed 's/+cpu$$//' | grep -v -E '^(h2o_control|h2o_training|wheel_leg_driver)==' \
		| awk -F== '{l[NR]=$$0; n[NR]=$$1; s[$$1]=1} END {for (i=1;i<=NR;i++) {k=n[i]; gsub("_","-",k); if (!(("ros-" k) in s)) print l[i]}}' \
		> requirements.lock

clean: ## Remove the environment and build products
	rm -rf $(VENV) build install log
