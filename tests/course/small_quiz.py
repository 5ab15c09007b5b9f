"""A small question bank with a question of each kind, for the tests of quizzes."""

from __future__ import annotations

from pathlib import Path

QUIZ_ID = "mod-1-quiz"

BANK = """\
title: A small quiz
intro: One question of each kind.
pass_mark: 0.8
uses:
  - distlab.predict.collectives.Link
  - distlab.predict.collectives.ring_all_reduce_s
  - distlab.predict.memory.zero_memory
  - distlab.predict.registry.value
  - distlab.predict.scaling.microbatches_for
questions:
  - id: q01
    kind: numeric
    points: 30
    given:
      gpus: [4, 8, 16, 32, 64]
      payload_MB: {from: 100, to: 900, step: 50}
    let:
      alpha_us: 2 + 3
      link: Link(alpha_us * 1e-6, 50e9)
    text: "{gpus} GPUs all-reduce {payload_MB} MB around a ring at 50 GB/s and {alpha_us} µs. How long does it take?"
    unit: ms
    key: ring_all_reduce_s(payload_MB * 1e6, gpus, link) * 1e3
    check: 2 * (gpus - 1) * 5e-3 + 2 * (gpus - 1) / gpus * payload_MB / 50
    bounds: [3, 40]
    tolerance: 2%
    wrong:
      - value: payload_MB / 50
        why: each byte crosses one link once
    explanation: Twice the bytes, nearly.
    see: chapter 5
  - id: q02
    kind: choice
    points: 20
    given:
      billions: [1.3, 7, 13, 30]
      stage: [1, 2, 3]
    text: "{billions} billion parameters, mixed-precision Adam, ZeRO {stage} over 8 GPUs: the states of one?"
    unit: GB
    shown: .1f
    key: zero_memory(billions * 1e9, 8, stage).total_bytes / 1e9
    check: billions * (16 / 8 if stage == 3 else 2 + 14 / 8 if stage == 2 else 4 + 12 / 8)
    bounds: [2, 170]
    tolerance: 3%
    wrong:
      - value: billions * 16
        why: nothing is shared out
      - value: billions * 2 / 8
        why: weights alone
    explanation: Stage 1 shares out 12 of 16 bytes, stage 2 14, stage 3 all.
    see: chapter 5
  - id: q03
    kind: ordering
    points: 10
    text: Order these links by what they carry one way, the slowest first.
    items:
      - {text: InfiniBand HDR, value: value("ib_hdr_Bps")}
      - {text: PCIe 5.0 x16, value: value("pcie5_x16_Bps")}
      - {text: NVLink 4, value: value("nvlink4_Bps")}
    explanation: Network, PCIe, NVLink.
    see: chapter 5
  - id: q04
    kind: code
    points: 30
    text: The microbatches that a pipeline of `stages` stages needs for an efficiency of `efficiency`, not rounded.
    arguments:
      stages: [2, 4, 8, 12, 16]
      efficiency: [0.5, 0.75, 0.8, 0.9, 0.95]
    cases: 6
    unit: microbatches
    key: microbatches_for(stages, efficiency)
    check: (stages - 1) * efficiency / (1 - efficiency)
    bounds: [0.5, 400]
    tolerance: 1%
    wrong:
      - value: stages / (1 - efficiency)
        why: the stages in place of the bubbles
    explanation: m / (m + p - 1) = e.
    see: chapter 5
  - id: q05
    kind: choice
    points: 10
    given:
      code: [79, 94]
    text: The kernel log says Xid {code}. What do you do first?
    options:
      - text: Drain the node and restart it.
        right: code == 79
        why: a contained error needs no restart of the node
      - text: Restart the program.
        right: code == 94
        why: a GPU that has fallen off the bus does not come back for a new program
      - text: Nothing.
        right: false
        why: both end the program
    explanation: 79 is a lost GPU, 94 a contained error.
    see: the runbooks
"""


def write_bank(root: Path, text: str = BANK) -> Path:
    path = root / "assessments" / f"{QUIZ_ID}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
