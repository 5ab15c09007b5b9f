"""Profiles of training runs: capture on every rank, one time line, breakdown of each step, what to do about it."""
