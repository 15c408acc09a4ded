# Two commands: `make demo` trains and judges everything on phantoms, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint figures clean

demo: $(STAMP)
	@$(BIN)/python train/train_vqgan.py experiment=demo_vqgan $(DEMO_VQGAN)
	@$(BIN)/python train/train_ddpm.py experiment=demo_ddpm $(DEMO_DDPM)
	@$(BIN)/python evaluation/evaluate.py experiment=demo_evaluate $(DEMO_EVALUATE)

test: $(STAMP)
	@$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -q -m slow -n logical --maxprocesses 4 --dist worksteal

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

figures: $(STAMP)
	@$(BIN)/python evaluation/figures.py

clean:
	rm -rf outputs

# Installed once: the stamp is newer than the lists until one of them changes.
$(STAMP): requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version) if sys.version_info < (3, 10) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the requirements into $(VENV) (several minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch $(STAMP)
