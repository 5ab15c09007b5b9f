"""The model of `distlab.train.models` in Keras, and one step of SGD on the replicas of a tf.distribute strategy.

A replica is a copy of the model on one device. The step is the same under every synchronous strategy: each
replica computes the gradient of its part of L / T (the summed loss over the tokens of the whole step), the
strategy sums the gradients, and every replica changes its copy alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distlab.train.config import ModelConfig, OptimizerConfig, TrainConfig
from distlab.train.data import Dataset
from distlab.train.models import CLASSES, build_model
from distlab.train.tensorflow import import_tensorflow

tf = import_tensorflow()


def build_keras_model(config: ModelConfig, seed: int) -> Any:
    """The model (mlp or cnn) with the very weights that torch starts from; images are (n, 8, 8, 1)."""
    layers, width = tf.keras.layers, config.width
    if config.kind == "mlp":
        stack = [
            layers.Flatten(),
            layers.Dense(width, activation="relu"),
            layers.Dense(width, activation="relu"),
            layers.Dense(CLASSES),
        ]
    else:
        stack = [
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.AveragePooling2D(2),
            layers.Permute((3, 1, 2)),  # torch has the channels first when it flattens
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    model = tf.keras.Sequential([tf.keras.Input((8, 8, 1)), *stack])
    model.set_weights([_as_keras(weights) for weights in build_model(config, seed).parameters()])
    return model


def _as_keras(weights: torch.Tensor) -> np.ndarray[Any, Any]:
    """torch has outputs before inputs, (out, in) and (out, in, y, x); Keras (in, out) and (y, x, in, out)."""
    values = weights.detach().numpy()
    return values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T


def as_tensors(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[Any, Any]:
    """A batch of the loop, channels last."""
    images, labels = batch
    return tf.constant(images.permute(0, 2, 3, 1).numpy()), tf.constant(labels.numpy())


def loss_sum(logits: Any, labels: Any) -> Any:
    """Sum of the cross entropy over the samples, 0 where there are none."""
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


class Replicas:
    """The copies of one model under a strategy, and how a step changes them.

    `gradients`, `reduce` and `update` are compiled; call them one after the other, so that what is local, what
    travels and what changes the weights can be told apart.
    """

    def __init__(self, strategy: Any, config: TrainConfig) -> None:
        self.strategy = strategy
        self.config: OptimizerConfig = config.optimizer
        with strategy.scope():
            self.model = build_keras_model(config.model, config.seed)
            self.weights = [variable.value for variable in self.model.trainable_variables]
            self.momentum = [tf.Variable(tf.zeros_like(weights), trainable=False) for weights in self.weights]
        self.gradients = tf.function(self._gradients, reduce_retracing=True)
        self.reduce = tf.function(self._reduce)
        self.update = tf.function(self._update)

    def _gradients(self, micro_batches: list[Any], tokens: Any) -> tuple[Any, list[Any]]:
        """Each replica's part of the loss and of the gradient of a step with so many tokens (a float).

        micro_batches: pairs of images and labels, each a tensor or, for several replicas, a value per replica.
        """

        def on_replica(micro_batches: list[Any]) -> tuple[Any, list[Any]]:
            loss, gradients = 0.0, [tf.zeros_like(weights) for weights in self.weights]
            for images, labels in micro_batches:
                with tf.GradientTape() as tape:
                    part = loss_sum(self.model(images, training=True), labels) / tokens
                parts = tape.gradient(part, self.model.trainable_variables)
                loss, gradients = loss + part, [a + b for a, b in zip(gradients, parts, strict=True)]
            return loss, gradients

        result: tuple[Any, list[Any]] = self.strategy.run(on_replica, args=(micro_batches,))
        return result

    def _reduce(self, loss: Any, gradients: list[Any]) -> tuple[Any, list[Any]]:
        """Sums over all replicas, of all processes."""
        add = tf.distribute.ReduceOp.SUM
        return self.strategy.reduce(add, loss, None), [
            self.strategy.reduce(add, gradient, None) for gradient in gradients
        ]

    def _update(self, gradients: list[Any], learning_rate: Any) -> None:
        """SGD as torch has it: the learning rate multiplies the momentum, not what is added to it."""
        for weights, momentum, gradient in zip(self.weights, self.momentum, gradients, strict=True):
            if len(weights.shape) > 1:  # biases do not decay
                gradient = gradient + self.config.weight_decay * weights
            momentum.assign(self.config.momentum * momentum + gradient)
            weights.assign_sub(learning_rate * momentum)

    def evaluate(self, held_out: Dataset) -> tuple[float, float]:
        """Mean loss and share of right guesses over all samples."""
        images, labels = as_tensors(held_out.batch(range(len(held_out))))
        logits = self.model(images, training=False)
        right = tf.reduce_sum(tf.cast(tf.argmax(logits, axis=-1) == labels, tf.int32))
        return float(loss_sum(logits, labels)) / len(held_out), int(right) / len(held_out)

    def weights_sum(self) -> float:
        """Sum of all weights in double precision."""
        return float(sum(weights.numpy().astype(np.float64).sum() for weights in self.weights))
