"""Timings of the site and the library. `make bench` runs them all, `make bench BENCH=name` one."""
