"""The benchmark of `make bench`: what the gateway costs, beside a bare echo on the same machine."""
