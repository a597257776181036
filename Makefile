# CycleReg on a machine with Python 3.10 to 3.13 and nothing else set up:
#   make demo    register and evaluate the sample pair; results in demo-output/
#   make test    check style and run the tests
# Both build .venv first (make env), with the versions pinned in Testing/requirements.txt.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.cyclereg-ready
DEMO := demo-output
# Processes that run tests, each with about 2 GB of memory; the tests of one file stay together, as they share what
# they made.
WORKERS ?= 2

.PHONY: demo test lint env clean

demo: $(STAMP)
	$(BIN)/python -m CycleRegLib demo --output $(DEMO)

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .

env: $(STAMP)

# The stamp is written last, so an interrupted installation is taken up again.  An environment whose interpreter has
# gone (upgraded system) or does not fit is made anew.
FITS := import pip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))

$(STAMP): pyproject.toml Training/pyproject.toml Testing/requirements.txt Testing/find-python.sh
	@rm -f $@
	@$(BIN)/python -c '$(FITS)' 2>/dev/null || { \
	    python=$$(sh Testing/find-python.sh) || exit 1; \
	    echo "Making $(VENV) with $$python"; \
	    rm -rf $(VENV) && "$$python" -m venv $(VENV); }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement Testing/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --editable '.[batch,mrml,test]'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --editable ./Training
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info Training/build Training/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find CycleReg CycleRegLib Testing Training -name __pycache__ -type d -prune -exec rm -rf {} +
