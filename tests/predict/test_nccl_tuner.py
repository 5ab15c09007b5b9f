"""NCCL's tuner, by hand from its source's formulas."""

from __future__ import annotations

import pytest

from distlab.errors import SettingError
from distlab.predict.network.nccl_tuner import Graph, best, estimates
from distlab.predict.units import GIB, KIB

CLUSTER = Graph(nodes=32, gpus_per_node=8, channels=16, channel_GBps=25)


def us(payload: float, algorithm: str, protocol: str, graph: Graph = CLUSTER) -> float:
    (found,) = [e for e in estimates(payload, graph) if (e.algorithm, e.protocol) == (algorithm, protocol)]
    return found.us


def test_ring_simple_by_hand() -> None:
    # 510 steps, 64 of them over the network; a post costs 3 us there, less than 3.4; then the plateau.
    latency = 1.4 * (8.4 + 446 * 3.4 + 64 * 14)
    assert us(GIB, "ring", "Simple") == pytest.approx(latency + GIB / (1000 * 400 * 256 / 510))


def test_tree_ll_by_hand() -> None:
    # Up and down 7 GPUs and 5 levels; 8 KiB is 2^7 times 64 B, where trees reach 0.7.
    latency = 6.8 + 2 * (7 * 0.6 + 5 * 5.0)
    assert us(8 * KIB, "tree", "LL") == pytest.approx(latency + 8 * KIB / (1000 * 20.4 / 2 * 0.7))


def test_nvls_tree_by_hand() -> None:
    assert us(GIB, "nvls_tree", "Simple") == pytest.approx(23 + 10 * 14 + GIB / (1000 * 200 * 5 / 6))


def test_small_goes_by_low_latency_trees_and_one_node_has_no_tree_of_switches() -> None:
    assert (best(8 * KIB, CLUSTER).algorithm, best(8 * KIB, CLUSTER).protocol) == ("tree", "LL")
    assert "nvls_tree" not in {e.algorithm for e in estimates(GIB, Graph(1, 8, 16, 22))}
    assert best(GIB, Graph(1, 8, 16, 22)).algorithm == "ring"


@pytest.mark.parametrize("payload", [0.0, float("nan")])
def test_no_payload_and_no_partner_are_refused(payload: float) -> None:
    with pytest.raises(SettingError):
        estimates(payload, CLUSTER)
    with pytest.raises(SettingError):
        estimates(1.0, Graph(1, 1, 16, 25))
    with pytest.raises(SettingError):
        Graph(1, 8, 0, 25)
