"""Grading: learners' notebooks run in sandboxes of their own; marks and feedback are made outside of them."""
