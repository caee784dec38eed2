PYTHON ?= python3
BIN := .venv/bin
# Stages, Ray workers and their children find the tools of this environment, and no other's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export RAY_USAGE_STATS_ENABLED := 0
export NO_MKDOCS_2_WARNING := 1

.PHONY: repro test check docs bench lock clean

repro: $(BIN)/.installed  ## raw data → shards → models → registry → report
	mde check
	dvc repro
	mde summary

test: $(BIN)/.installed  ## everything: core, Ray, DVC and MLflow
	pytest -n auto --dist loadfile tests/core
	pytest -n auto --dist loadfile tests/models tests/evaluation tests/benchmarks tests/real
	# They wait for servers half of the time: three at a time, on two cores too.
	pytest -n 3 --dist loadfile --durations 20 tests/e2e tests/cluster

check: $(BIN)/.installed  ## what to run before a commit: seconds
	ruff check .
	ruff format --check .
	mypy
	mkdocs build --strict --site-dir site
	pytest -q -n auto --dist loadfile tests/core

docs: $(BIN)/.installed  ## the documentation as a site, at http://127.0.0.1:8000
	mkdocs serve

bench: $(BIN)/.installed  ## speed against named peers: ratios, kept in benchmarks/results
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	python -m benchmarks.data
	python -m benchmarks.engine
	python -m benchmarks.train_step --model fastdepth-mobilenet
	python -m benchmarks.encoders --markdown
	python -m benchmarks.inference

# The versions and hashes of requirements.lock, then this package as it stands here.
$(BIN)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "mde needs Python 3.11 to 3.13, found " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

lock: $(BIN)/.installed  ## resolve the newest versions that pyproject.toml allows
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --all-extras --upgrade -q pyproject.toml -o requirements.lock

clean:  ## forget all results; the environment stays
	rm -rf data checkpoints models results registered reports site mlruns mlflow.db dvc.lock .dvc/cache .dvc/tmp
