"""The similarity report: a renamed copy is found, independent answers and the starter's own text are not."""

from __future__ import annotations

from itertools import pairwise

import nbformat.v4 as nb
import pytest

from distlab.course.grade.similarity import (
    LEAST,
    WINDOW,
    K,
    fingerprints,
    resembling,
    token_kinds,
    written_by_learner,
)

STARTER = """def mean_loss(batches, model):
    total, count = 0.0, 0
    for inputs, targets in batches:
        raise NotImplementedError
    return total / count
"""

ANN = """def mean_loss(batches, model):
    total, count = 0.0, 0
    for inputs, targets in batches:
        outputs = model(inputs)
        loss = ((outputs - targets) ** 2).sum()
        total += float(loss)
        count += len(targets)
        if not math.isfinite(total):
            raise ValueError("the loss is not finite")
    weights = [parameter.norm() for parameter in model.parameters() if parameter.requires_grad]
    penalty = sum(weight * weight for weight in weights)
    return total / count + 1e-4 * penalty
"""

BEN = """# all by myself
def mean_loss(data, net):
    s, n = 0.0, 0
    for x, y in data:
        pred = net(x)   # forward
        l = ((pred - y) ** 2).sum()
        s += float(l)

        n += len(y)
        if not math.isfinite(s):
            raise ValueError("bad!")
    w = [p.norm() for p in net.parameters() if p.requires_grad]
    pen = sum(v * v for v in w)
    return s / n + 3e-5 * pen
"""

CAT = """def mean_loss(batches, model):
    losses = []
    sizes = {}
    while batches:
        inputs, targets = batches.pop()
        with torch.no_grad():
            losses.append(torch.nn.functional.mse_loss(model(inputs), targets, reduction="sum").item())
        sizes[len(sizes)] = targets.shape[0]
    try:
        return sum(losses) / sum(sizes.values())
    except ZeroDivisionError:
        return float("nan")
"""


def test_a_renamed_copy_is_found_and_an_answer_of_ones_own_is_not() -> None:
    [pair] = resembling({"ann": [ANN], "ben": [BEN], "cat": [CAT]}, [STARTER])
    assert (pair.one, pair.other) == ("ann", "ben")
    assert pair.similarity == 1.0


def test_what_the_starter_has_says_nothing() -> None:
    assert resembling({"ann": [STARTER], "ben": [STARTER]}, [STARTER]) == []
    assert resembling({"ann": [ANN], "ben": [ANN]}, [ANN]) == []


def test_what_most_learners_have_says_nothing() -> None:
    many = {f"s{number}": [ANN] for number in range(10)}
    assert resembling(many, [STARTER]) == []
    others = {
        f"s{number}": [CAT.replace("while batches:", f"while {'not ' * number}batches:")]
        for number in range(10)
    }
    found = resembling({**others, "ann": [ANN], "ben": [BEN]}, [STARTER], 0.9)
    assert (found[0].one, found[0].other) == ("ann", "ben")


def test_short_answers_are_left_out() -> None:
    short = "def f(x):\n    return 2 * x + 1\n"
    assert len(fingerprints(short)) < LEAST
    assert resembling({"ann": [short], "ben": [short]}, [""]) == []


def test_a_match_of_the_guaranteed_length_is_never_missed() -> None:
    # Winnowing's guarantee: some fingerprint lies in every run of K + WINDOW - 1 tokens that two texts share.
    shared = "for a in b: c[a] = d(a) if a else e"
    assert len(token_kinds(shared)) >= K + WINDOW - 1 - 1
    shared += "; del z"
    for before in ("x = 1\n", "import os\nprint(os)\n", "y = [1, 2, 3, 4]\nw = {}\n"):
        assert fingerprints(f"{shared}\n") & fingerprints(f"{before}{shared}\nq = (1, 2)\n")


@pytest.mark.parametrize(
    "source",
    ["", "def f(:\n", "'''never closed", "%matplotlib inline\nx = 1", "!ls\n", "\x00", "if x:\n\ty\n  z"],
)
def test_any_text_has_fingerprints(source: str) -> None:
    assert isinstance(fingerprints(source), set)


def test_magics_and_layout_change_nothing() -> None:
    one = token_kinds("%time\nx = 1  # one\n\n\ny = 'a'")
    assert one == token_kinds("a = 23\nb = 'other'")


def test_only_what_learners_may_write_is_compared() -> None:
    answer, test, own = nb.new_code_cell("answer"), nb.new_code_cell("test"), nb.new_code_cell("own")
    answer.metadata["nbgrader"] = {"locked": False}
    test.metadata["nbgrader"] = {"locked": True}
    assert written_by_learner([answer, test, own, nb.new_markdown_cell("text")]) == ["answer", "own"]


def test_pairs_come_most_alike_first() -> None:
    half = ANN.split("    weights")[0] + CAT.split("    try:")[1]
    pairs = resembling({"ann": [ANN], "ben": [BEN], "dan": [half]}, [STARTER], 0.2)
    assert len(pairs) >= 2
    assert all(one.similarity >= other.similarity for one, other in pairwise(pairs))
