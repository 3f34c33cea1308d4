# make demo: a story from the built-in model. make test: all tests. Both install into $(VENV) first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# -qq: errors only.
PIP = $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: demo test clean

# No terminal on stdin: the demo must not wait for a prompt.
demo: $(VENV)/.installed
	$(BIN)/rocforge generate < /dev/null

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) ..."
	$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what the tests need ..."
	$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.installed
