"""TensorFlow's ways of training on several devices, on the same task as the rest of `distlab.train`.

- `multi_worker`: MultiWorkerMirroredStrategy, a process a worker, an all-reduce between them: `strategy:
  tensorflow` in a configuration. Its losses are those of torch, up to the order of sums.
- `mirrored`: MirroredStrategy, one process for several devices: `python -m distlab.train.tensorflow.mirrored`.
- `parameter_server`: ParameterServerStrategy, asynchronous:
  `python -m distlab.train.tensorflow.parameter_server`.

All three use a loop of their own (Keras 3's `fit` does not work under MultiWorkerMirroredStrategy) around the
same model and the same step (`replicas`).
"""

from __future__ import annotations

import importlib.util
import os
from typing import Annotated, Any

import tyro

from distlab.errors import SettingError
from distlab.machine import cores
from distlab.train.config import TrainConfig
from distlab.train.result import TrainResult

AsJson = Annotated[bool, tyro.conf.arg(name="json")]
"""The option `--json` of the examples: losses and accuracy, in place of a sentence."""

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "GRPC_VERBOSITY": "NONE"}
"""No lines about every compiled-in feature; oneDNN off, as it would round in another order."""


def train_tensorflow(config: TrainConfig) -> TrainResult | None:
    """Train with MultiWorkerMirroredStrategy on `config.world_size` processes; rank 0's result.

    Under a launcher (torchrun) this process is one rank of several, and others than rank 0 get None.

    Raises SettingError where TensorFlow is missing or cannot do what is asked for, LaunchError where a rank
    failed.
    """
    check(config)
    from distlab.train.tensorflow.multi_worker import launch_workers

    return launch_workers(config)


def check(config: TrainConfig) -> None:
    """SettingError where TensorFlow is missing, or the configuration asks for what only torch does here."""
    from distlab.train.strategies.options import check_options

    check_options(config)
    if config.model.kind == "gpt":
        raise SettingError("model.kind is 'gpt', which only torch trains here; set it to 'mlp' or 'cnn'.")
    if config.model.freeze:
        raise SettingError(
            "model.freeze is set, which only torch does here; leave it out, or set strategy to 'ddp'."
        )
    if config.checkpoint.every_steps or config.resume_from_checkpoint or config.faults:
        raise SettingError(
            "strategy 'tensorflow' neither saves nor resumes here; leave checkpoint, resume_from_checkpoint and "
            "faults out, or set strategy to 'ddp'."
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise SettingError("TensorFlow is not installed; get it with `pip install 'distlab[frameworks]'`.")


def import_tensorflow() -> Any:
    """The module `tensorflow`, quiet; it takes seconds."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import tensorflow as tf  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return tf


def limit_threads(tf: Any) -> None:
    """Compute with as many threads as a torch rank would; call it before anything has run.

    Two threads more wait for other processes: with one, a collective could wait for a step that waits for it.
    """
    tf.config.threading.set_intra_op_parallelism_threads(int(os.environ.get("OMP_NUM_THREADS", cores())))
    tf.config.threading.set_inter_op_parallelism_threads(2)
