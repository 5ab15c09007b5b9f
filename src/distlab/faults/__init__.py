"""Faults on purpose, and what they cost: `config` says which, `inject` makes them, `drills` measures recovery."""
