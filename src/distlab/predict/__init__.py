"""Predict before you run: closed models of collectives, scaling and memory, and the constants they stand on.

Pure Python on purpose: these functions must run in a web page and in a command that answers in 50 ms.
"""
