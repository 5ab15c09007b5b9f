"""Measurements: collectives, and the stamp that says what they ran on."""
