"""Benchmarks: each command measures on this machine, in one run, what the documents claim."""
