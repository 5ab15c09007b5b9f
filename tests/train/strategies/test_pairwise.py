"""Options in combination: every pair of values of any two settings occurs in some run, and each run of an exact
strategy equals plain training of the same mathematics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from allpairspy import AllPairs

from distlab.train.config import TrainConfig, from_dict
from distlab.train.sampler import BatchPlan, padding_share
from tests.train.strategies.equivalence import assert_same, load_little, run_cases

MODELS: list[dict[str, Any]] = [
    {"kind": "mlp", "width": 24, "freeze": ["blocks.0"]},
    {"kind": "cnn", "width": 6},
    {"kind": "gpt", "width": 32, "layers": 2, "heads": 2},
    {"kind": "gpt", "width": 32, "layers": 2, "heads": 2, "tied": False, "freeze": ["embedding"]},
]
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd", "learning_rate": 0.05},
    {"name": "adamw", "learning_rate": 0.002, "implementation": "plain", "weight_decay": 0.1},
    {"name": "adamw", "learning_rate": 0.002, "implementation": "fused"},
    {"name": "sgd", "learning_rate": 0.05, "warmup_steps": 2, "schedule": "cosine"},
]
ADAFACTOR = {"name": "adafactor", "learning_rate": 0.01, "weight_decay": 0.1}
"""Not on weights in parts: it has means of whole rows and columns."""
COMMON: dict[str, list[Any]] = {
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "clip_norm": [None, 0.3],
    "precision": ["fp32", "bf16", "fp16"],
    "activation_checkpointing": ["none", "selective", "full"],
    "micro_batches": [1, 3],
    "batching": ["shuffled", "by_length"],
}
OWN: dict[str, dict[str, list[Any]]] = {
    "ddp": {"bucket_mb": [0.002, 25.0], "optimizer": [*OPTIMIZERS, ADAFACTOR]},
    "fsdp": {"reshard": [True, False], "offload": [False, True]},
    "tensor_parallel": {"model": [MODELS[0], MODELS[2], MODELS[3]], "parallel": [{"tensor": 2}]},
    "pipeline": {
        "model": MODELS[2:],
        "micro_batches": [2, 3],
        "parallel": [{"pipeline": 2, "schedule": "1f1b"}, {"pipeline": 2, "schedule": "gpipe"}],
    },
}


def pairs(strategy: str, own: dict[str, list[Any]]) -> Iterator[TrainConfig]:
    """Runs of one strategy, with settings of its own beside the common ones; `memory`: several at a time."""
    settings = COMMON | own
    for row in AllPairs(list(settings.values())):
        chosen = dict(zip(settings, row, strict=True))
        gpt = chosen["model"]["kind"] == "gpt"
        yield from_dict(
            {
                "strategy": strategy,
                "steps": 6,
                "seed": 5,
                "model": chosen["model"],
                # 17 samples: shares, and micro-batches, of unequal size, and an epoch that ends in a batch of 7.
                # Paragraphs of all lengths, so that ranks have unequal numbers of tokens, and padding, too.
                "data": {
                    "source": "text" if gpt else "synthetic",
                    "samples": 58,
                    "sequence_length": 24,
                    "global_batch": 17,
                    "batching": chosen["batching"] if gpt else "shuffled",
                    "micro_batches": chosen["micro_batches"],
                },
                "optimizer": chosen["optimizer"] | {"clip_norm": chosen["clip_norm"]},
                "memory": {
                    "precision": chosen["precision"],
                    "activation_checkpointing": chosen["activation_checkpointing"],
                    "reshard": chosen.get("reshard", True),
                    "offload": chosen.get("offload", False),
                    **chosen.get("memory", {}),
                },
                "communication": {"bucket_mb": chosen.get("bucket_mb", 25.0)},
                "parallel": chosen.get("parallel", {}),
            }
        )


def test_texts_make_unequal_ranks_and_micro_batches() -> None:
    config = next(config for config in pairs("ddp", OWN["ddp"]) if config.data.source == "text")
    data = replace(config.data, micro_batches=3)
    text, _ = load_little(config)
    plan = BatchPlan(text, data, config.seed)
    for step in range(config.steps):
        shares = [plan.share(plan.global_batch(step), 2, rank) for rank in range(2)]
        tokens = [[sum(map(plan.tokens, part)) for part in share] for share in shares]
        assert sum(tokens[0]) != sum(tokens[1])
        assert len(set(tokens[0])) > 1
    assert padding_share(text, data, world_size=2) > 0.02


@pytest.mark.parametrize("strategy", list(OWN))
def test_every_pair_of_options_does_the_mathematics_of_one_process(strategy: str) -> None:
    configs = list(pairs(strategy, OWN[strategy]))
    assert len(configs) >= 12
    for config, ranks in zip(configs, run_cases(configs), strict=True):
        assert_same(config, ranks)
