"""Jupyter's configuration for the two kinds of servers: JUPYTER_CONFIG_PATH names one of the two folders."""
