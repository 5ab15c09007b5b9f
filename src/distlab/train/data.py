"""Training data that needs no download: images of digits, text that ships with Python, and made-up samples.

A data set knows how many targets each sample has before it loads any of them, so that steps can be planned
(see sampler.py). Images are 8x8 and grey, with one of 10 classes; the tokens of text are bytes.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distlab.train.config import TrainConfig
from distlab.train.models import CLASSES, IGNORED, IMAGE_SHAPE, VOCABULARY

HELD_OUT = 360
"""Of scikit-learn's 1,797 digits, this many are kept for testing, the same ones in every run."""

MARK = 0
"""The byte that begins and ends a text; none has it inside."""


class Dataset(Protocol):
    """Samples by number."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    @property
    def tokens_per_sample(self) -> int | None:
        """What `tokens` says of every sample; None where they differ."""
        ...

    def tokens(self, index: int) -> int:
        """Targets that count in a sample: 1 of an image, one per predicted token of a text. Loads nothing."""
        ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some samples, padded to the longest; targets of padding are IGNORED.

        No index at all gives tensors with 0 rows.
        """
        ...


def load_data(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """What to train on, and what to test on: the same for every seed."""
    if config.data.source == "digits":
        digits = load_digits()
        return Images(digits.train_images, digits.train_labels), Images(
            digits.test_images, digits.test_labels
        )
    if config.data.source == "text":
        return load_text(config.data.sequence_length)
    count = config.data.samples
    if config.model.kind == "gpt":
        length = config.data.sequence_length
        return SyntheticSequences(0, count, length), SyntheticSequences(count, HELD_OUT, length)
    return SyntheticImages(0, count), SyntheticImages(count, HELD_OUT)


def fingerprint(dataset: Dataset) -> int:
    """A number that other samples, or as many more, would change: a run resumes on the same data only.

    (Another release of Python has other text.) It reads 100 samples from all over the data set.
    """
    inputs, targets = dataset.batch(range(0, len(dataset), max(1, len(dataset) // 100)))
    return zlib.crc32(inputs.numpy().tobytes() + targets.numpy().tobytes(), len(dataset))


@dataclass(frozen=True)
class Digits:
    """Images of shape (n, 1, 8, 8) and labels of shape (n,), split for training and testing.

    Pixels are in standard units: 0 is the mean of the training images, 1 their standard deviation.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The optical recognition of handwritten digits data set, as it ships inside scikit-learn."""
    from sklearn import datasets  # type: ignore[import-untyped]

    bunch = datasets.load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float64).unsqueeze(1)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1797))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    # Pixels are whole numbers up to 16, whose sums are exact: every machine gets the same bits.
    mean, mean_square = images[train].mean(), images[train].square().mean()
    images = ((images - mean) / (mean_square - mean.square()).sqrt()).float()
    return Digits(images[train], labels[train], images[test], labels[test])


class Images:
    """Images (n, 1, 8, 8) and labels (n,) in memory."""

    tokens_per_sample = 1

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def tokens(self, index: int) -> int:
        return 1

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(indices, dtype=torch.int64)
        return self.images[chosen], self.labels[chosen]


def load_text(sequence_length: int) -> tuple[Text, Text]:
    """The paragraphs of Python's language reference, as `help()` shows them: nine tenths to train on.

    Longer paragraphs are cut; most are shorter. The text is that of the running Python.
    """
    from pydoc_data import topics

    paragraphs = dict.fromkeys(  # each once: several topics repeat the same
        paragraph.strip() for name in sorted(topics.topics) for paragraph in topics.topics[name].split("\n\n")
    )
    order = [paragraph.encode() for paragraph in paragraphs if paragraph]
    random.Random("text").shuffle(order)
    held_out = len(order) // 10
    return Text(order[held_out:], sequence_length), Text(order[:held_out], sequence_length)


class Text:
    """Paragraphs of different lengths: predict each byte from those before it."""

    tokens_per_sample = None

    def __init__(self, paragraphs: Sequence[bytes], sequence_length: int) -> None:
        """A paragraph of more than `sequence_length` targets becomes several samples."""
        self.samples: list[Tensor] = []
        for paragraph in paragraphs:
            marked = torch.tensor([MARK, *paragraph, MARK], dtype=torch.int64)
            for start in range(0, len(marked) - 1, sequence_length):
                self.samples.append(marked[start : start + sequence_length + 1])

    def __len__(self) -> int:
        return len(self.samples)

    def tokens(self, index: int) -> int:
        return len(self.samples[index]) - 1

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        # Padding follows the sample, so that in a causal model no counted position sees it: no mask needed.
        longest = max((self.tokens(index) for index in indices), default=1)
        inputs = torch.full((len(indices), longest), MARK)
        targets = torch.full((len(indices), longest), IGNORED)
        for row, index in enumerate(indices):
            sample = self.samples[index]
            inputs[row, : len(sample) - 1] = sample[:-1]
            targets[row, : len(sample) - 1] = sample[1:]
        return inputs, targets


class SyntheticImages:
    """Made-up images: one pattern per class, under noise. Nothing is stored; a number makes its image."""

    tokens_per_sample = 1

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.patterns = _uniform(np.arange(CLASSES, dtype=np.uint64), *IMAGE_SHAPE)

    def __len__(self) -> int:
        return self.count

    def tokens(self, index: int) -> int:
        return 1

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        numbers = np.asarray(indices, dtype=np.uint64) + np.uint64(self.first)
        labels = (numbers % np.uint64(CLASSES)).astype(np.int64)
        noise = _uniform(numbers + np.uint64(CLASSES), *IMAGE_SHAPE)
        images = (self.patterns[labels] + noise) / 2
        return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels)


class SyntheticSequences:
    """Made-up token sequences, all of one length: mostly each token says which comes next.

    Token t is followed by 5 t + 1 (mod 256), except that one in ten is drawn at random.
    """

    RANDOM = 0.1

    def __init__(self, first: int, count: int, length: int) -> None:
        self.first = first
        self.count = count
        self.tokens_per_sample = length

    def __len__(self) -> int:
        return self.count

    def tokens(self, index: int) -> int:
        return self.tokens_per_sample

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        numbers = np.asarray(indices, dtype=np.uint64) + np.uint64(self.first)
        draws = _uniform(numbers, 2, self.tokens_per_sample + 1)
        sequences = (draws[:, 0] * VOCABULARY).astype(np.int64)
        for t in range(1, self.tokens_per_sample + 1):
            follows = draws[:, 1, t] >= self.RANDOM
            sequences[follows, t] = (5 * sequences[follows, t - 1] + 1) % VOCABULARY
        tokens = torch.from_numpy(sequences)
        return tokens[:, :-1], tokens[:, 1:]


def _uniform(numbers: NDArray[np.uint64], *shape: int) -> NDArray[np.floating[Any]]:
    """For each number an array of `shape` of draws from [0, 1) that depend on it alone.

    SplitMix64 (Steele, Lea and Flood, 2014, Fast Splittable Pseudorandom Number Generators), which gives its
    n-th draw without those before. uint64 arithmetic is modulo 2^64, as it needs.
    """
    u64 = np.uint64
    size = int(np.prod(shape))
    z: NDArray[np.uint64] = np.add.outer(numbers * u64(size), np.arange(1, size + 1, dtype=u64))
    z = z * u64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> u64(30))) * u64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> u64(27))) * u64(0x94D049BB133111EB)
    z = z ^ (z >> u64(31))
    draws = (z >> u64(11)) * 2.0**-53  # the upper 53 bits: what a float64 holds
    return draws.reshape(len(numbers), *shape)
