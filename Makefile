PYTHON ?= python3
V := .venv/bin
.DEFAULT_GOAL := help
