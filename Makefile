# Every target works on a fresh machine: it makes the environment first, from pyproject.toml and requirements.lock.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0
# Where it is set, every process would compile all that it imports anew: torch alone for seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup tools demo test attack unit lint bench bench-gpu chaos bench-search bench-serve size clean

setup: $(VENV)/.ready

PIP = $(BIN)/python -m pip install --quiet --no-compile
# pip unpacks one package after the other, on one core: three share the lock's, a minute less, before one looks whether all
# is there; where one fails, that one has all to do. Packages that share files (mlflow's three) are neighbours in the lock,
# so one pip's. Only what is slow to import is compiled: the rest would take a minute more, most of it in vain.
COMPILED := torch ray mlflow deepspeed pandas sklearn scipy
$(VENV)/.ready: pyproject.toml requirements.lock
	@echo 'making $(VENV): two to six minutes and 7 GB'
	$(PYTHON) -m venv $(VENV)
	sort -r requirements.lock | xargs -n 28 -P 3 $(PIP) --no-deps || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) --constraint requirements.lock --editable '.[jobs,demo,test]'
	cd $(VENV)/lib/python3.*/site-packages && $(abspath $(BIN))/python -m compileall -qq -j 0 $(COMPILED) || true
	touch $@

tools:  ## what some tests want of Debian: a browser for the page, promtool for alerts
	apt-get update -q
	apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core prometheus

demo: setup  ## simulated subject, training on Ray, report with pictures: runs/demo/report.html
	$(BIN)/python jobs/train.py --with-lowlevel --overwrite
	$(BIN)/python jobs/evaluate.py --pictures 60 --control-candidates 2 --draw.steps 8 \
		--reconstruction.candidates 6 --reconstruction.averaged-samples 8 --reconstruction.strength 0.9

test: lint  ## unit, several workers, DeepSpeed, S3, Ray; the kills and faults of minutes are `make chaos`
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not ray'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'ray and not chaos'

attack: setup  ## hostile requests, damaged bodies, canaries, what no source may contain
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m '' tests/serve/test_hostile.py \
		tests/serve/test_schemathesis.py tests/serve/test_bodies.py tests/serve/test_auth.py \
		tests/serve/test_canaries.py tests/test_architecture.py

unit: setup  ## the tests of a minute: no Ray, no DeepSpeed, no S3 server
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=5

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## ratios against peers, run in turn: runs/bench.json
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.loader runs/bench.json
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.checkpoint runs/bench.json
	OMP_NUM_THREADS=2 $(BIN)/python -m bench.reconstruct runs/bench.json
	OMP_NUM_THREADS=2 $(BIN)/python -m bench.packing runs/bench.json
	OMP_NUM_THREADS=2 $(BIN)/python -m bench.step runs/bench.json
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.tracking runs/bench.json
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.zero runs/bench.json

bench-gpu: setup  ## the full-width step on one CUDA GPU, batch 32 and 300, bf16: under 8 minutes
	for batch in 32 300; do \
		$(BIN)/python -m bench.step runs/bench.json --full --device cuda --precision bf16 \
			--batch $$batch --pairs 20 || exit 1; done

CHAOS := shard_faults object_store numeric checkpoint_faults kills ray_kills
chaos: setup  ## kills, damage, a failing object store: runs/chaos.json; fails where a bound is broken
	broken=0; for part in $(CHAOS); do \
		OMP_NUM_THREADS=1 $(BIN)/python -m chaos.$$part runs/chaos.json || broken=1; \
	done; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m chaos && exit $$broken

bench-search: setup  ## successive halving against random search, on 32 trained trials: 15 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.search runs/bench.json runs/bench-search

bench-serve: setup  ## what Ray Serve adds, and the demo's service under kills and overload: 12 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.serve runs/bench.json runs/demo
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.serve_chaos runs/bench.json runs/demo

size: setup  ## two steps of the full published model: 20 GiB of memory, 18 GB of disk, minutes
	mkdir -p runs/size
	OMP_NUM_THREADS=2 $(BIN)/python -m bench.size runs/size

clean:
	rm -rf $(VENV) runs data
