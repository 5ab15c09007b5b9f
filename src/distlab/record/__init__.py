"""Recordings of GPU machines, for whoever has none: how they are made (`scripts/record_gpu`), kept and read."""
