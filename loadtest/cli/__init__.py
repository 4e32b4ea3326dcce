"""The commands of `python -m loadtest`, a module to each kind."""
