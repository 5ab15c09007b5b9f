"""Distributed training in small pieces: `launch`, `config`, `data`, `models`, `loop` and `strategies`.

Nothing is imported here, so that a rank can set its environment before torch loads.
"""
