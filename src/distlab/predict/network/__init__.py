"""Collectives on a network of nodes: what NCCL does, and how long that takes, term by term.

    from distlab.predict.network import predict_collective, system

    prediction = predict_collective("all_reduce", 64 * MIB, system("h100_dgx", gpus=8, gpus_per_node=8))
    prediction.total_s, prediction.algorithm, prediction.protocol
    for term in prediction.terms: print(term.name, term.seconds, term.why)

`topology` says what the network is, `algorithms` who sends what to whom, `model` turns both into seconds, `systems`
holds machines with their sources and fits, `calibrate` fits a machine of your own.
"""

from __future__ import annotations

from distlab.predict.network.algorithms import Algorithm
from distlab.predict.network.model import CollectivePrediction, Way, exposed_s, predict_collective, ways_of
from distlab.predict.network.systems import SYSTEMS, System, fitted_inside, machine, system, system_of
from distlab.predict.network.topology import PROTOCOLS, Fabric, InSwitch, NodeLink, Protocol, Topology

__all__ = [
    "PROTOCOLS",
    "SYSTEMS",
    "Algorithm",
    "CollectivePrediction",
    "Fabric",
    "InSwitch",
    "NodeLink",
    "Protocol",
    "System",
    "Topology",
    "Way",
    "exposed_s",
    "fitted_inside",
    "machine",
    "predict_collective",
    "system",
    "system_of",
    "ways_of",
]
