# make report | test | lab; PROFILE=smoke|quick|full chooses the report, DATA=… the data.
PYTHON ?= python3
PROFILE ?= quick
BIN = .venv/bin
INSTALLED = .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1

report: $(INSTALLED)
	$(BIN)/cifarnb report --profile $(PROFILE) $(if $(DATA),--data $(DATA))

test: $(INSTALLED)
	$(BIN)/python -m pytest

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cifarnb needs Python 3.11 or newer; name it with make PYTHON=…"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

clean:
	rm -rf .venv reports/quick reports/smoke

.PHONY: report test lab install clean
