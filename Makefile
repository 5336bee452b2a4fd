.PHONY: check format test test-slow

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
