"""Modules with state, each usable alone."""
