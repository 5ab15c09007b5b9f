"""MultiWorkerMirroredStrategy: a replica in each process, and an all-reduce of the gradients between them.

    distlab train --strategy tensorflow --world_size 2

The loop is that of `distlab.train.loop` in TensorFlow's words: the same plan of batches, the same shares, the
same mean over tokens, so that the losses are those of torch. TensorFlow finds the other processes through the
environment variable TF_CONFIG, and its collectives go by gRPC (ring), or by NCCL between GPUs.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist

from distlab.bench.stamp import Stamp, stamp
from distlab.machine import LOOPBACK
from distlab.train.config import COLLECTIVE_TIMEOUT_S, TrainConfig
from distlab.train.data import load_data
from distlab.train.launch import launch
from distlab.train.lock import only_run
from distlab.train.logs import RunLog
from distlab.train.models import build_model, gradient_bytes, parameter_count
from distlab.train.optimizer import learning_rate
from distlab.train.result import StepRecord, TrainResult
from distlab.train.sampler import BatchPlan
from distlab.train.strategies.base import Strategy
from distlab.train.tensorflow import import_tensorflow, limit_threads


def launch_workers(config: TrainConfig) -> TrainResult | None:
    """Train on fresh processes, or as the rank that a launcher made this process; rank 0's result."""
    if "RANK" not in os.environ:
        results = launch(train, config.world_size, config, backend="gloo", timeout_s=COLLECTIVE_TIMEOUT_S)
        return results[0]
    dist.init_process_group("gloo")
    try:
        result = train(replace(config, world_size=dist.get_world_size()))
    finally:
        dist.destroy_process_group()
    return result if result.rank == 0 else None


def train(config: TrainConfig) -> TrainResult:
    """Train on this rank; a torch process group exists already, and helps the ranks to find each other."""
    strategy, device = _strategy()
    from distlab.train.tensorflow.replicas import Replicas, as_tensors, tf

    rank, world_size = dist.get_rank(), dist.get_world_size()
    training, held_out = load_data(config)
    model = build_model(config.model, config.seed)
    replicas = Replicas(strategy, config)
    plan = BatchPlan(training, config.data, config.seed)
    asked = {"rank": rank, "world_size": world_size, "data_size": world_size, "shards": (), "device": device}
    # All that a log asks of a strategy.
    place = cast(Strategy, SimpleNamespace(**asked, stamp=partial(_stamp, device)))
    steps: list[StepRecord] = []
    with only_run(config), RunLog(config, place, first_step=0) as log:
        for step in range(config.steps):
            started = time.perf_counter()
            ids = plan.share(plan.global_batch(step), world_size, rank)
            micro_batches = [as_tensors(training.batch(part)) for part in ids]
            computing = time.perf_counter()
            part, gradients = replicas.gradients(
                micro_batches, tf.constant(float(len(plan.global_batch(step))))
            )
            float(part)  # reading a value waits for the device
            waiting = time.perf_counter()
            whole, gradients = replicas.reduce(part, gradients)
            loss = float(whole)
            waited = time.perf_counter()
            rate = learning_rate(config.optimizer, step, config.steps)
            replicas.update(gradients, tf.constant(rate))
            replicas.weights[-1].numpy()
            step_s = time.perf_counter() - started
            record = StepRecord(
                step=step,
                epoch=plan.epoch(step),
                loss=loss,
                learning_rate=rate,
                samples=sum(map(len, ids)),
                tokens=sum(map(len, ids)),
                step_s=step_s,
                data_s=computing - started,
                compute_s=step_s - (computing - started) - (waited - waiting),
                communication_s=waited - waiting,
            )
            steps.append(record)
            log.step(record, ids)
    held_out_loss, accuracy = replicas.evaluate(held_out)
    dist.barrier()  # a worker that leaves early looks like a failure to the others
    return TrainResult(
        config=config,
        rank=rank,
        world_size=world_size,
        parameters=parameter_count(model),
        payload_bytes=gradient_bytes(model) if world_size > 1 else 0,
        steps=steps,
        accuracy=accuracy,
        held_out_loss=held_out_loss,
        weights_sum=replicas.weights_sum(),
        stamp=_stamp(device),
    )


def _strategy() -> tuple[Any, torch.device]:
    """TensorFlow's strategy over all ranks, and where this rank computes."""
    tf = import_tensorflow()
    limit_threads(tf)
    gpus = tf.config.list_physical_devices("GPU")
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpu = len(gpus) >= local_size
    tf.config.set_visible_devices(gpus[local_rank] if on_gpu else [], "GPU")
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": addresses()}, "task": {"type": "worker", "index": dist.get_rank()}}
    )
    way = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(implementation=way.NCCL if on_gpu else way.RING)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    if strategy.num_replicas_in_sync != dist.get_world_size():
        raise RuntimeError(
            f"TensorFlow has {strategy.num_replicas_in_sync} replicas for {dist.get_world_size()} ranks."
        )
    return strategy, torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")


def addresses() -> list[str]:
    """Where each rank's TensorFlow will listen, by rank."""
    one_machine = os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]
    host = LOOPBACK if one_machine else socket.gethostbyname(socket.gethostname())
    with socket.socket() as free:
        free.bind((host, 0))
        addresses: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(
            addresses, f"{host}:{free.getsockname()[1]}"
        )  # no rank lets go of its port yet
        dist.barrier()
    return addresses


def _stamp(device: torch.device) -> Stamp:
    """torch's group only introduced the ranks to each other; gradients went by TensorFlow's own way."""
    tf = import_tensorflow()
    way = "nccl" if device.type == "cuda" else "ring"
    return replace(stamp(device), backend=f"tensorflow {tf.__version__} {way}")
