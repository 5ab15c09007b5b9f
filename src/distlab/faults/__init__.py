"""Faults on purpose, and what they cost.

`config` says which, `inject` makes them, `drills` measures recovery, `leftovers` looks for what is left of them.
"""
