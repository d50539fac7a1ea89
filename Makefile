# `make` alone lists the commands. Everything is installed into $(VENV), made from nothing when it is missing
# and brought up to date when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   ?= .venv
FLOOR  ?= build/floor
OUT    ?= results
MINUTES ?= 5
JOBS   ?= auto
ARGS   ?=

python := $(VENV)/bin/python
pip    := $(python) -m pip --disable-pip-version-check install -c constraints.txt
wanted := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help compare docs test test-page test-hosts test-floor lint lint-style lint-format lint-types fuzz mutants bench agreement gpu gpu-kernels dist learning muon-rate pictures vendor clean

help:
	@echo 'make compare      train and compare the methods of the board; writes $(OUT)/report.html'
	@echo 'make docs         build the documentation, without a network; writes build/docs/index.html'
	@echo 'make test         run the tests'
	@echo 'make test-hosts   train under Hugging Face, Lightning, timm, skorch and Stable-Baselines3'
	@echo 'make test-page    look at the report in Chromium, with the network off: accessibility, phone, dark'
	@echo 'make test-floor   run the tests with the lowest versions that pyproject.toml allows, on Python 3.11'
	@echo 'make lint         check style, format and types'
	@echo 'make fuzz         look for wrong numbers and stray writes in random scenarios, for MINUTES=5'
	@echo 'make mutants      plant small defects in the package and count those that the tests notice'
	@echo 'make bench        time a step beside torch and others; writes $(OUT)/bench.json and bench.svg'
	@echo 'make agreement    compare the rules of papers with other libraries; writes BENCHMARKS.md'
	@echo 'make learning     compare learning in every format of state and parameters; writes BENCHMARKS.md'
	@echo 'make muon-rate    find the best learning rates of AdamW and Muon; writes BENCHMARKS.md'
	@echo 'make gpu          on a GPU: numbers, its tests and times, in ten minutes; writes $(OUT)/gpu'
	@echo 'make gpu-kernels  compile the golden GPU kernels that have changed, and write down what comes out'
	@echo 'make pictures     photograph the report of make compare for README; needs Chromium'
	@echo 'make vendor       bundle what the playground takes from npm, as package-lock.json pins it'
	@echo 'make dist         build sdist and wheel of the last commit into dist, and check them; ARGS=--index installs from the index'
	@echo 'make clean        remove the environment and everything generated'
	@echo
	@echo 'ARGS passes flags on:  make compare ARGS=--quick    make test ARGS="-k adam"'
	@echo 'PYTHON picks the interpreter (3.11 or newer):  make test PYTHON=python3.12'

compare: $(VENV)/lab
	@$(python) -m steprule compare --out '$(OUT)' $(ARGS)
	@$(if $(findstring --out,$(ARGS)),,test ! -f '$(OUT)/report.html' || echo 'The report: $(abspath $(OUT))/report.html')

# From nothing each time, since most pages are made from the code. A warning is an error; links are checked last.
docs: $(VENV)/docs
	@rm -rf build/docs
	@$(python) -m sphinx --builder html --fresh-env --nitpicky --fail-on-warning --keep-going --quiet \
	  --doctree-dir build/doctrees $(ARGS) docs build/docs
	@echo 'The documentation: $(CURDIR)/build/docs/index.html'

# One thread a worker: with several, two workers on two cores wait for each other's threads.
test: $(VENV)/test
	OMP_NUM_THREADS=1 $(python) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# What needs nothing but torch is in `make test`.
test-hosts: $(VENV)/hosts
	OMP_NUM_THREADS=1 $(python) -m pytest -n $(JOBS) --dist worksteal tests/hosts --ignore-glob='*/test_torch_*' $(ARGS)

# Chromium is the system's: apt install chromium. Without it the tests say so and are skipped.
test-page: $(VENV)/page $(VENV)/docs
	OMP_NUM_THREADS=1 $(python) -m pytest tests/page $(ARGS)

# An environment of its own, with the oldest Python and packages that are promised; what is skipped is listed. What they say
# of the newer packages they find there is not ours to mend.
test-floor: $(FLOOR)/test
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest -n $(JOBS) --dist worksteal \
	  -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning -W ignore::FutureWarning $(ARGS)

$(FLOOR)/test: pyproject.toml tests/floor.py
	@python3.11 -m venv --clear '$(FLOOR)'
	@$(FLOOR)/bin/python tests/floor.py > '$(FLOOR)/floor.txt'
	@echo "Installing the lowest versions: $$(tr '\n' ' ' < '$(FLOOR)/floor.txt')"
	@$(FLOOR)/bin/python -m pip --disable-pip-version-check install --quiet -c '$(FLOOR)/floor.txt' -e '.[test,gpu]'
	@touch $@

lint: lint-style lint-format lint-types

lint-style: $(VENV)/dev
	$(python) -m ruff check .

lint-format: $(VENV)/dev
	$(python) -m ruff format --check .

lint-types: $(VENV)/dev
	$(python) -m pyright --pythonpath $(python)

fuzz: $(VENV)/test
	@OMP_NUM_THREADS=2 $(python) tests/fuzz --minutes $(MINUTES) $(ARGS)

mutants: $(VENV)/test
	@$(python) tests/mutants $(ARGS)

bench: $(VENV)/lab
	@$(python) -m steprule bench --out '$(OUT)' $(ARGS)

agreement: $(VENV)/peers
	@$(python) benchmarks/agreement.py --record
	@$(python) benchmarks/report.py

# It takes hours; ARGS=--resume goes on.
learning: $(VENV)/lab
	@$(python) -m steprule compare --config benchmarks/learning.toml --out '$(OUT)/learning' $(ARGS)
	@$(python) benchmarks/learning.py '$(OUT)/learning'
	@$(python) benchmarks/report.py

# It takes an hour; ARGS=--resume goes on.
muon-rate: $(VENV)/lab
	@$(python) -m steprule compare --config benchmarks/muon_rate.toml --tasks digits-mlp,digits-cnn --iterations 300 \
	  --out '$(OUT)/muon-rate/digits' $(ARGS)
	@$(python) -m steprule compare --config benchmarks/muon_rate.toml --task pydocs-gpt --iterations 150 \
	  --out '$(OUT)/muon-rate/gpt' $(ARGS)
	@$(python) benchmarks/muon_rate.py '$(OUT)/muon-rate/digits' '$(OUT)/muon-rate/gpt'
	@$(python) benchmarks/report.py

# Nothing is installed for it: a borrowed GPU comes with its packages. With OUT=folder it writes there.
gpu:
	@OUT='$(if $(filter file,$(origin OUT)),$(OUT)/gpu,$(OUT))' PYTHON='$(or $(wildcard $(python)),$(PYTHON))' \
	  bash benchmarks/gpu.sh $(ARGS)

gpu-kernels: $(VENV)/test
	@[ -d '$(VENV)/lowest' ] || \
	  $(python) -m pip --quiet install --no-deps --target '$(VENV)/lowest' "$$($(python) tests/floor.py | grep '^triton==')"
	@$(python) benchmarks/gpu_kernels.py --beside '$(VENV)/lowest'
	@$(python) benchmarks/report.py

pictures: $(VENV)/page
	@[ -f '$(OUT)/report.html' ] || $(python) -m steprule compare --out '$(OUT)' $(ARGS)
	@$(python) docs/pictures.py '$(OUT)/report.html'

vendor:
	@bash src/steprule/play/vendor/bundle.sh '$(CURDIR)/build/vendor'

dist: $(VENV)/dist
	@$(python) tests/dist.py $(ARGS)

clean:
	rm -rf '$(VENV)' '$(OUT)' build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Each file marks what has been installed in full; an interrupted installation leaves none and is done again.
# An environment that was copied here with its checkout still runs the other checkout's code: make a new one.

ifneq ($(shell cat '$(VENV)/made' 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/made
endif

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  $(PYTHON) --version >&2; \
	  echo 'steprule needs Python 3.11 or newer; "$(PYTHON)" is not. Name another: make PYTHON=python3.12 ...' >&2; \
	  exit 1; }
	@case '$(abspath $(VENV))' in '$(CURDIR)'/*) ;; *) own=$$(cat '$(VENV)/made' 2>/dev/null); \
	  [ -z "$$own" ] || [ ! -d "$$own" ] || { \
	    echo "VENV=$(VENV) is the environment of the checkout in $$own, and would be emptied; name another, or none" >&2; \
	    exit 1; };; esac
	@echo 'Making $(VENV) ...'
	@$(PYTHON) -m venv --clear '$(VENV)'
	@echo '$(CURDIR)' > $@

$(VENV)/torch: $(VENV)/made $(wanted)
	@echo 'Installing torch (by far the largest part) ...'
	@$(pip) torch
	@touch $@

$(VENV)/lab: $(VENV)/torch
	@echo 'Installing steprule and its lab ...'
	@$(pip) --quiet -e '.[lab]'
	@touch $@

$(VENV)/test: $(VENV)/lab
	@echo 'Installing the test tools ...'
	@$(pip) --quiet -e '.[test]'
	@touch $@

$(VENV)/hosts: $(VENV)/test
	@echo 'Installing libraries that train models ...'
	@$(pip) --quiet -e '.[hosts]'
	@touch $@

$(VENV)/peers: $(VENV)/test
	@echo 'Installing libraries of optimisers ...'
	@$(pip) --quiet -e '.[peers]'
	@touch $@

$(VENV)/docs: $(VENV)/test
	@echo 'Installing the tools that make the documentation ...'
	@$(pip) --quiet -e '.[docs]'
	@touch $@

$(VENV)/dist: $(VENV)/lab
	@echo 'Installing the tools that build and check a distribution ...'
	@$(pip) --quiet -e '.[dist]'
	@touch $@

$(VENV)/page: $(VENV)/test
	@echo 'Installing the tools that look at a page ...'
	@$(pip) --quiet -e '.[page]'
	@touch $@

$(VENV)/dev: $(VENV)/test
	@echo 'Installing the linters ...'
	@$(pip) --quiet -e '.[dev]'
	@touch $@
