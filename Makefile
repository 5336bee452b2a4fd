.PHONY: check format test test-slow fuzz

check:            ## format, lint and types, without changing a file
	ruff format --check .
	ruff check .
	mypy

format:           ## what `check` would complain about, mended where a machine can
	ruff format .
	ruff check --fix .

test:             ## the fast tests
	pytest

test-slow:        ## all tests, also those that take minutes
	pytest -m ""

fuzz:             ## hostile files: 3,000 of each kind, on all cores
	PROTOSEG_FUZZ=3000 pytest tests/test_fuzz.py --dist load
