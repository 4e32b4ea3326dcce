"""What a message looks like to one upstream, and its answer to the terminal again (no I/O)."""
