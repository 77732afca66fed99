# Every target builds its own .venv when it is missing or older than the files that describe it.
PYTHON ?= python3
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.worldcompass-stamp
ARGS ?=

# Modules whose line coverage `make test` holds at 90% or more: the training path and its contract. Lines count that
# the core's own tests run, see tests/conftest.py.
CORE := types world geometry critic seeding rollout evaluate statistics testing
comma := ,
space := $(comma:,=) $(comma:,=)
CORE_FILES := $(CORE:%=worldcompass/%.py) worldcompass/training/*.py worldcompass/runs/*.py

# What `make test-lowest` runs: every dependency in use, in a few minutes.
SMOKE := commands test_api.py test_env.py test_encodings.py media runs training/test_loop.py \
  training/test_resume.py parallel/test_waiting.py report/test_export.py worlds/doom/test_world_doom.py \
  worlds/doom/test_engine_start.py worlds/hands/test_hands_scenes.py player/test_api_of_player.py \
  rewards/test_ray_actors.py worlds/worldplay/test_worldplay_encoders.py
# Its extras. Each torchvision fits a single torch, so that `rewards` is left out when TORCH replaces the lowest one.
LOWEST := web,hf,track,hub,hands,ray,yaml,pusht

.PHONY: help demo test test-lowest check docs format bench golden soak
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## post-train a small world, twelve minutes on 2 cores (ARGS="--seed 1 --out runs/one")
	$(BIN)/worldcompass demo $(ARGS)

# Compiled modules are kept even where they usually are not: tests start many processes that import the same. Memory is
# kept by a process, too: returning it to the system and asking again takes a tenth of the time.
KEEP_MEMORY := MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TOP_PAD_=16777216

test: $(STAMP) ## all tests, one process for each core; the core's line coverage must reach 90% (ARGS="-k report")
	$(KEEP_MEMORY) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal --durations=10 \
	  --cov=worldcompass --cov-report= $(ARGS)
	$(if $(ARGS),@echo "coverage is judged when all tests run",$(BIN)/python -m coverage report --fail-under=90 \
	  --include='$(subst $(space),$(comma),$(CORE_FILES))')

test-lowest: $(STAMP) ## a smoke test at the lowest versions that pyproject.toml admits, in a new environment (TORCH=2.13.0)
	rm -rf build/lowest && $(PYTHON) -m venv build/lowest
	$(BIN)/python tests/support/lowest.py $(if $(TORCH),torch==$(TORCH)) > build/lowest/bounds.txt
	build/lowest/bin/python -m pip install --progress-bar off --constraint build/lowest/bounds.txt \
	  '.[$(LOWEST)$(if $(TORCH),,,rewards)]' pytest hypothesis
	cd build/lowest && OMP_NUM_THREADS=1 PYTHONSAFEPATH=1 bin/python -m pytest -q -p no:cacheprovider \
	  $(addprefix ../../tests/,$(SMOKE)) $(ARGS)

check: $(STAMP) ## lint, formatting, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/codespell worldcompass tests benchmarks docs examples *.md Makefile

docs: $(STAMP) ## the documentation site, build/docs/index.html; warnings and broken links are errors
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -j 2 -c docs . build/docs

format: $(STAMP) ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## clip-level against whole-video rollout
	$(BIN)/python benchmarks/rollout.py $(ARGS)

soak: $(STAMP) ## kill a run 40 times, damage its checkpoints, fill its disk: nothing may be lost (ARGS="--kills 100")
	$(BIN)/python benchmarks/soak.py $(ARGS)

golden: $(STAMP) ## only the tests against stored numbers (GOLDEN=folder) and plain twins of the formulas
	$(if $(GOLDEN),WORLDCOMPASS_GOLDEN='$(abspath $(GOLDEN))') $(BIN)/python -m pytest -m golden $(ARGS)
