"""ParameterServerStrategy: variables on a server, workers that change them without waiting for each other.

    python -m distlab.train.tensorflow.parameter_server --workers 2

Four processes: a coordinator that hands out steps, a server that holds the variables, and two workers that
each take a part of a global batch, compute its gradient and apply it at once. What that does to training is
told in `distlab.train.strategies.parameter_server`, which is the same in torch; so no equal losses here, but
a loss that falls. SGD without momentum, so that a worker's update is one subtraction on the server.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import tyro

from distlab.train.config import OptimizerConfig, TrainConfig
from distlab.train.tensorflow import AsJson, check, import_tensorflow, limit_threads

COORDINATOR, SERVER, FIRST_WORKER = 0, 1, 2
"""What each rank is."""
PATIENCE_S = 600


def train_with_server(config: TrainConfig, workers: int) -> tuple[list[float], float]:
    """Mean loss of each step as its workers saw it, and the share of held-out samples that come out right."""
    check(config)
    from distlab.train.launch import launch

    config = replace(config, optimizer=replace(config.optimizer, momentum=0.0))
    outcome = launch(_role, FIRST_WORKER + workers, config, backend="gloo", timeout_s=PATIENCE_S)[COORDINATOR]
    assert outcome is not None
    return outcome


def _role(config: TrainConfig) -> tuple[list[float], float] | None:
    """What a rank does; all but the coordinator serve until it is done."""
    import torch.distributed as dist

    from distlab.train.tensorflow.multi_worker import addresses

    tf = import_tensorflow()
    limit_threads(tf)
    rank, where = dist.get_rank(), addresses()
    name, index = {COORDINATOR: ("chief", 0), SERVER: ("ps", 0)}.get(rank, ("worker", rank - FIRST_WORKER))
    cluster = {"chief": where[:1], "ps": where[1:2], "worker": where[2:]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": name, "index": index}})
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    outcome = None
    if rank == COORDINATOR:
        outcome = _coordinate(config, resolver, workers=len(cluster["worker"]))
    else:
        tf.distribute.Server(resolver.cluster_spec(), job_name=name, task_index=index, protocol="grpc")
    dist.barrier()  # TensorFlow serves in the background meanwhile
    return outcome


def _coordinate(config: TrainConfig, resolver: Any, workers: int) -> tuple[list[float], float]:
    from distlab.train.data import load_data
    from distlab.train.optimizer import learning_rate
    from distlab.train.sampler import BatchPlan
    from distlab.train.tensorflow.replicas import as_tensors, build_keras_model, loss_sum, tf

    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    model = build_keras_model(config.model, config.seed)  # only for its forward pass and first weights
    with strategy.scope():
        weights = [tf.Variable(value) for value in model.get_weights()]

    def push(images: Any, labels: Any, tokens: Any, rate: Any) -> Any:
        """On a worker: pull the weights, compute a gradient, push what it changes."""
        with tf.GradientTape() as tape:
            pulled = [tf.identity(variable) for variable in weights]
            tape.watch(pulled)
            logits, _ = model.stateless_call(pulled, [], images)
            loss = loss_sum(logits, labels) / tokens
        for variable, gradient in zip(weights, tape.gradient(loss, pulled), strict=True):
            variable.assign_sub(rate * gradient)
        return loss

    compiled = tf.function(push, autograph=False, reduce_retracing=True)
    training, held_out = load_data(config)
    plan = BatchPlan(training, config.data, config.seed)
    pushed = []
    for step in range(config.steps):
        ids = plan.global_batch(step)
        tokens = tf.constant(float(len(ids)))
        rate = tf.constant(learning_rate(config.optimizer, step, config.steps))
        pushed.append(
            [
                coordinator.schedule(compiled, (*as_tensors(training.batch(part)), tokens, rate))
                for worker in range(workers)
                for part in plan.share(ids, workers, worker)
            ]
        )
    coordinator.join()  # whichever worker is free takes the next part; nobody waits before this
    model.set_weights([variable.numpy() for variable in weights])
    images, labels = as_tensors(held_out.batch(range(len(held_out))))
    right = tf.argmax(model(images), axis=-1) == labels
    losses = [float(sum(part.fetch() for part in parts)) for parts in pushed]
    return losses, float(tf.reduce_mean(tf.cast(right, tf.float32)))


def main(workers: int = 2, steps: int = 40, as_json: AsJson = False) -> None:
    """Train the MLP on digits."""
    config = TrainConfig(strategy="tensorflow", steps=steps, optimizer=OptimizerConfig(learning_rate=0.1))
    losses, accuracy = train_with_server(config, workers)
    if as_json:
        print(json.dumps({"losses": losses, "accuracy": accuracy}))
    else:
        print(f"{workers} workers, {steps} steps: loss {losses[-1]:.4f}, {100 * accuracy:.1f}% right.")


if __name__ == "__main__":
    tyro.cli(main)
