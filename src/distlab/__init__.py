"""Learn GPU computing and distributed training: predict, run, measure, explain."""

__version__ = "0.1.0"
