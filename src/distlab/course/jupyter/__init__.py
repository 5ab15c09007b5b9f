"""Jupyter's configuration for the two kinds of servers; `learner/` and `instructor/` are named by JUPYTER_CONFIG_PATH."""
