# Every target works on a fresh machine with Python >= 3.11 and make; the environment is made in .venv.
PY := .venv/bin/python
STAMP := .venv/.installed
PYTHON ?= python3

.DEFAULT_GOAL := help

help: ## List every target
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

env: $(STAMP) ## Make the environment in .venv

# uv when it is there, else pip installs it once into the environment: resolving torch with pip alone takes minutes more.
$(STAMP): pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip -q
	@$(PY) -m pip install -q --disable-pip-version-check uv
	.venv/bin/uv pip install -q --python $(PY) -e '.[cli,operator,trainer,dev]'
	@touch $@

demo: env ## Train the example sentiment model, from the manifest to a checked artifact
	.venv/bin/finetune run examples/movie-sentiment.yaml

test: env ## Run every test; needs Go for those against a real API server
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not node"

node: env ## Install the chart on a real node of this machine and train there, the main stories; needs root, Debian and Go
	tests/node/packages.sh
	$(PY) -m pytest tests/node -m "not e2e"

e2e: env ## The same with every story: faults, memory, queue, monitoring, the operator's share of a start
	tests/node/packages.sh
	$(PY) -m pytest tests/node

check: env ## Lint, format, types, docstrings, import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/pydoclint crds operator trainer-image
	.venv/bin/lint-imports

format: env ## Rewrite the sources in the project's format
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

generate: env ## Regenerate what is made from the models: the CRD, the reference page, the chart's copies and README
	$(PY) crds/generate.py
	$(PY) charts/generate.py

dashboards: env ## Regenerate Grafana's dashboards and the reference page of the metrics
	$(PY) charts/dashboards/generate.py

board-pictures: env ## Draw the dashboards from a real run of some minutes into docs/pictures; needs Go and Debian's prometheus
	PYTHONPATH=tests $(PY) -m support.draw_boards

verify: generate dashboards ## Regenerate everything generated, then fail on a difference
	git diff --exit-code -- crds docs/reference charts

cluster-binaries: env ## Build the test cluster's etcd and Kubernetes from Go modules into the cache, once
	$(PY) tests/control_plane/binaries/build.py

locks: env ## Pin what the images install, by hash; keeps pinned versions unless UPGRADE=--upgrade
	@for name in operator trainer; do .venv/bin/uv pip compile -q pyproject.toml --extra $$name --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --custom-compile-command 'make locks' $(UPGRADE) -o requirements/$$name.txt || exit; done

images: ## Build the operator's and the trainer's image with buildah or docker; images/build.sh lists the variables
	images/build.sh

chart: env ## Lint the chart and test it with both Helms, against a real API server too; needs Go
	$(PY) -m pytest tests/chart

test-matrix: env ## The control-plane tests against Kubernetes 1.34 too; builds it on first use
	FINETUNE_TEST_KUBERNETES=1.34.4 $(PY) -m pytest tests/control_plane

bench-trainer: env ## Us against HF Trainer and TRL, side by side; exits 0 only if every bar is met
	$(PYTHON) -P bench/trainer.py

method-table: env ## Every method on real models: resumed, loaded back, merged, counted; PART=1/4 takes every fourth row
	$(PY) -P bench/method_table.py --part $(or $(PART),1/1)

bench-objectives: env ## What a step costs with each term that runs the model more than once; exits 0 only if FGM meets its bar
	$(PY) -P bench/objectives.py

bench-sweep: env ## 16 trials of a sweep against 16 separate runs at the same points; exits 0 only at 60 % of their cost
	$(PY) -P bench/sweep.py

shot-table: env ## Few-shot: a classifier learned from 0, 1, 4, 16 and 64 reviews of each label
	$(PY) -P bench/shot_table.py

task-table: env ## Every task on its example against a trivial answer; ONLY=digits,acronyms measures those rows anew
	$(PY) -P bench/task_table.py --only "$(ONLY)"

bench-operator: env ## The operator against a real API server: bursts, latency, writes, CPU, recovery
	$(PY) -P bench/operator.py

fault-proof: env ## Take each protection away and see its test fail; needs Go; ROWS=f07,f20 for some, tests/proof holds the record
	PYTHONPATH=tests $(PY) -m proof.prove --rows "$(ROWS)"

.PHONY: help env demo test node e2e check format generate dashboards board-pictures verify cluster-binaries test-matrix locks images chart bench-trainer bench-objectives bench-operator bench-sweep method-table shot-table task-table fault-proof
