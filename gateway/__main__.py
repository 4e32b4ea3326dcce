"""`python -m gateway`: the same as the console command `gateway`."""

from gateway.cli.main import main

if __name__ == "__main__":
    main()
