# make report | pdf | test | lab; PROFILE=smoke|quick|full chooses the report, DATA=… the data, JOBS=… how many runs at a time.
PYTHON ?= python3
PROFILE ?= quick
# Runs, and then sections, at a time: on two cores a thread each is the better use of them.
JOBS ?= 2
BIN = .venv/bin
INSTALLED = .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# pip is to install into .venv, whatever else it does for this user.
export PIP_USER = 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT

report: $(INSTALLED)
	$(BIN)/python -m cifarnb report --profile "$(PROFILE)" --jobs "$(JOBS)" $${DATA:+--data "$$DATA"}

pdf: $(INSTALLED)
	$(BIN)/python -m cifarnb report --pdf --profile "$(PROFILE)" --jobs "$(JOBS)" $${DATA:+--data "$$DATA"}

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lab: $(INSTALLED)
	$(BIN)/python -m jupyterlab notebooks

install: $(INSTALLED)

# A .venv that was copied or moved with the project would run what lies in the folder that it was made in.
ifneq ($(shell grep -s '^command = ' .venv/pyvenv.cfg | grep -vF " $$(pwd -P)/.venv"),)
$(INSTALLED): anew
endif

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cifarnb needs Python 3.11 or newer; name it with make PYTHON=…"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.txt
	@# What pip would compile on one core, tests and all; a file that does not compile is nobody's concern.
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib >/dev/null || true
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

anew:
	@echo "the .venv here was made in another folder; it is made anew"
	rm -rf .venv

clean:
	rm -rf .venv

.PHONY: report pdf test lab install anew clean
