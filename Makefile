# make run    set up .venv and run the main job: an autonomous experiment on the simulated sheet
# make test   set up .venv and run the tests, in two processes; make test-slow runs the long ones likewise
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INTERFACES := $(wildcard msg/*.msg srv/*.srv action/*.action) CMakeLists.txt package.xml setup.py pyproject.toml scripts/node.in \
	$(wildcard launch/*.py config/*.yaml)
OPTIONS ?=

.PHONY: run test test-slow setup lock clean

run: setup
	$(BIN)/edgetem run config/default.yaml $(OPTIONS)

test: setup
	$(BIN)/python scripts/test.py $(OPTIONS)

test-slow: setup
	$(BIN)/python scripts/test.py -m slow $(OPTIONS)

setup: $(INSTALLED)

# Two steps, so that a changed message does not look up every dependency again.
$(VENV)/.dependencies: requirements.lock scripts/system.sh
	@sh scripts/system.sh "$(PYTHON)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

$(INSTALLED): $(VENV)/.dependencies $(INTERFACES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

# Resolve requirements.in afresh and pin the result.
lock:
	@sh scripts/system.sh "$(PYTHON)"
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0
	build/lock/bin/python -m pip install --quiet -r requirements.in
	build/lock/bin/python scripts/lock.py > requirements.lock

clean:
	rm -rf $(VENV) build
