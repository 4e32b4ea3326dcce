"""`python -m loadtest.bench`."""

from loadtest.bench.command import app

if __name__ == "__main__":
    app(prog_name="loadtest.bench")
