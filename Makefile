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

# A process a core, and in the end what measures time, by itself. A file's tests share what they compile.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not alone and not gpu and not full_matrix'
	$(BIN)/python -m pytest -m 'alone and not gpu and not full_matrix'

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
