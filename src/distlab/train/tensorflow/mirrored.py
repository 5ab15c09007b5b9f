"""MirroredStrategy: one process, a replica on each of its devices.

    python -m distlab.train.tensorflow.mirrored --replicas 2

On GPUs that is how one machine is used without processes of its own for each. Without as many GPUs, the CPU is
cut into as many logical devices: slower than one, and the same mathematics.
"""

from __future__ import annotations

import json
from typing import Any

import tyro

from distlab.train.config import TrainConfig
from distlab.train.tensorflow import AsJson, check, import_tensorflow, limit_threads


def train_mirrored(config: TrainConfig, replicas: int) -> tuple[list[float], float]:
    """Loss of every step, and the share of held-out samples that come out right; once per process."""
    check(config)
    strategy = _strategy(replicas)
    from distlab.train.data import load_data
    from distlab.train.optimizer import learning_rate
    from distlab.train.sampler import BatchPlan
    from distlab.train.tensorflow.replicas import Replicas, as_tensors, tf

    training, held_out = load_data(config)
    plan = BatchPlan(training, config.data, config.seed)
    model = Replicas(strategy, config)
    losses = []
    for step in range(config.steps):
        ids = plan.global_batch(step)
        shares = [
            [as_tensors(training.batch(part)) for part in plan.share(ids, replicas, i)]
            for i in range(replicas)
        ]
        part, gradients = model.gradients(_per_replica(strategy, shares), tf.constant(float(len(ids))))
        loss, gradients = model.reduce(part, gradients)
        model.update(gradients, tf.constant(learning_rate(config.optimizer, step, config.steps)))
        losses.append(float(loss))
    return losses, model.evaluate(held_out)[1]


def _strategy(replicas: int) -> Any:
    tf = import_tensorflow()
    limit_threads(tf)
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) >= replicas:
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(replicas)])
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def _per_replica(strategy: Any, shares: list[Any]) -> Any:
    """One value whose parts are each replica's own: nested like a share."""
    tf = import_tensorflow()

    def join(*parts: Any) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    return tf.nest.map_structure(join, *shares)


def main(replicas: int = 2, steps: int = 20, as_json: AsJson = False) -> None:
    """Train the MLP on digits."""
    losses, accuracy = train_mirrored(TrainConfig(strategy="tensorflow", steps=steps), replicas)
    if as_json:
        print(json.dumps({"losses": losses, "accuracy": accuracy}))
    else:
        print(f"{replicas} replicas, {steps} steps: loss {losses[-1]:.4f}, {100 * accuracy:.1f}% right.")


if __name__ == "__main__":
    tyro.cli(main)
