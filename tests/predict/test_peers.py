"""Other people's estimators on the scorecard's cases: the real ones, as scripts/setup dev installs them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.cli import main
from distlab.predict import megatron, peers
from distlab.predict.peers import PEERS, Answer, apart
from distlab.predict.states import MemorySettings, rank_states
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout, Transformer
from distlab.predict.validation import Kind, MemoryRun, Scored
from distlab.predict.validation.peers import OURS, beside, described, side_by_side
from distlab.predict.validation.shipped import score_shipped

LLM, DEEPSPEED, ACCELERATE, TRACKER = PEERS

GPT = Transformer("GPT", 2, 32, 4, 256, 16, learned_positions=False, biases=False)
FP32 = MemorySettings(precision="fp32", loss="torch", fused_kernels=False)


def memory_cell(kind: Kind, ranks: int, stage: int, measured: float = 1.0, **changed: object) -> Scored:
    layout = Layout(data=ranks, global_batch=4 * ranks, micro_batch=4, zero_stage=stage)  # type: ignore[arg-type]
    run = MemoryRun(GPT, layout, replace(FP32, **changed))  # type: ignore[arg-type]
    name = f"{kind} {ranks} {stage} {changed}"
    return Scored("own", name, measured, measured, kind, False, unit="bytes", inputs=run)


def said(peer: peers.Peer, *cells: Scored) -> list[float]:
    answers, missing = peers.ask(cells, [peer])
    assert missing == []
    return [answer.predicted for answer in answers]


@pytest.fixture(scope="module")
def shipped() -> list[Scored]:
    return score_shipped()


@pytest.fixture(scope="module")
def answers(shipped: list[Scored]) -> list[Answer]:
    """llm-analysis on everything that the package holds."""
    found, missing = peers.ask(shipped, [LLM])
    assert missing == []
    return found


def test_llm_analysis_is_given_the_best_efficiency_for_the_fitted_steps(answers: list[Answer]) -> None:
    """Its error is least squares: no other efficiency for all of them does better."""
    shares = []
    for answer in answers:
        case = answer.cell.inputs
        if answer.cell.fitted and isinstance(case, megatron.Case):
            error = answer.signed_error
            shares.append(1 + error if case.unit == "iteration_s" else 1 / (1 + error))

    def squares(factor: float) -> float:
        return sum((factor * share - 1) ** 2 for share in shares)

    assert len(shares) == len(megatron.FITTED)
    assert squares(1.0) < min(squares(0.99), squares(1.01))


def test_llm_analysis_knows_neither_the_bubble_nor_communication(answers: list[Answer]) -> None:
    """What it leaves out, as its errors show it."""

    def mean(family: str, large: bool = True) -> tuple[float, float]:
        of = [a for a in answers if a.cell.family == family and (a.cell.payload_bytes > 2**20) is large]
        ours = statistics.fmean(abs(a.cell.signed_error) for a in of)
        return statistics.fmean(abs(a.signed_error) for a in of), ours

    for family in ("megatron_left_out", "megatron_530b", "activation_memory"):
        theirs, ours = mean(family, large=False)
        assert ours < theirs
    theirs, ours = mean("all_reduce_dgx")
    assert ours < theirs
    # Over payloads of GiB bandwidth is all there is: there it is close, too.
    (longest,) = (a for a in answers if a.cell.family == "all_reduce_h200" and a.cell.payload_bytes > 1e10)
    assert abs(longest.signed_error) < 0.1


def test_llm_analysis_counts_states_and_activations() -> None:
    states, activations, peak = said(
        LLM, *(memory_cell(kind, 4, 3) for kind in ("states", "activations", "peak"))
    )
    assert states == pytest.approx(16 * GPT.parameters / 4)
    assert peak == states + activations
    assert said(LLM, memory_cell("states", 1, 0, optimizer="sgd")) == []  # it is about Adam


def test_deepspeed_takes_mixed_precision_for_granted() -> None:
    """2 + 18 bytes for each parameter on one GPU; with ZeRO 3 18, shared out, and 4 of the largest matrix."""
    assert said(DEEPSPEED, memory_cell("states", 4, 0)) == [20 * GPT.parameters]
    largest = GPT.vocabulary * GPT.hidden
    assert said(DEEPSPEED, memory_cell("states", 4, 3)) == [18 * GPT.parameters // 4 + 4 * largest]
    assert said(DEEPSPEED, memory_cell("peak", 4, 3), memory_cell("states", 1, 0, optimizer="sgd")) == []


def test_accelerate_shares_nothing_out() -> None:
    assert said(ACCELERATE, *(memory_cell("states", n, 3) for n in (1, 4))) == 2 * [16 * GPT.parameters]
    assert said(ACCELERATE, memory_cell("activations", 1, 0)) == []
    other = replace(memory_cell("states", 1, 0), inputs=MemoryRun(replace(GPT, biases=True), Layout(), FP32))
    assert said(ACCELERATE, other) == []  # of which there is no program here


def test_torchs_tracker_runs_the_program() -> None:
    """On one process, and as one of four that do not exist."""
    for ranks, stage in ((2, 0), (4, 3)):
        cells = [memory_cell(kind, ranks, stage) for kind in ("states", "activations", "peak")]
        states, activations, peak = said(TRACKER, *cells)
        run = cells[0].inputs
        assert isinstance(run, MemoryRun)
        steps = 4 * (3 + 2 * 8)  # the optimizer's count of steps, in each of the tensors
        held = rank_states(GPT, run.layout, FP32, 0).total_bytes
        assert held < states <= held + steps
        assert states + activations < peak < 1.5 * training_memory(GPT, run.layout, FP32).peak_bytes
    assert said(TRACKER, memory_cell("states", 1, 0, optimizer="adafactor")) == []


def test_the_recorded_answers_are_what_the_peers_say(shipped: list[Scored], answers: list[Answer]) -> None:
    """Else `python -m distlab.predict.peers` writes them anew. The tracker is asked about a few of the runs."""
    recorded = peers.recorded(shipped)
    memory = [cell for cell in shipped if isinstance(cell.inputs, MemoryRun)]
    found, missing = peers.ask(memory, [DEEPSPEED, ACCELERATE])
    runs = [cell.inputs for cell in memory if cell.family == "own_memory"]
    few = {next(r for r in runs if (r.layout.data, r.layout.zero_stage) == kind) for kind in ((1, 0), (4, 3))}
    tracked, also_missing = peers.ask([cell for cell in memory if cell.inputs in few], [TRACKER])
    assert missing + also_missing == []

    def told(given: list[Answer]) -> dict[tuple[str, str, str], float]:
        return {(a.peer, a.cell.family, a.cell.case): a.predicted for a in given}

    live, kept = told([*answers, *found, *tracked]), told(recorded)
    assert {key: kept.get(key) for key in live} == pytest.approx(live, rel=1e-6)
    assert {key for key in kept if key[0] != TRACKER.name} == {key for key in live if key[0] != TRACKER.name}
    assert all(peers.recorded_versions()[peer.name] == peers._version(peer) for peer in PEERS if peer.name in
               {key[0] for key in kept})  # fmt: skip


def test_a_peer_that_is_not_here_is_one_line(
    shipped: list[Scored], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(apart, "module", absent)
    found, missing = peers.ask(shipped)
    assert found == []
    assert len(missing) == len(PEERS)
    assert missing[0] == (
        "llm-analysis is not here (No module named 'llm_analysis.analysis'); install it with scripts/setup dev."
    )
    with pytest.raises(SystemExit) as ended:
        main(["scorecard", "--peers", "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0
    assert len(json.loads(out)) == len(shipped)
    assert [line for line in err.splitlines() if "not here" in line] == missing


def test_the_command_sets_peers_beside_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.csv").write_text("model,selective,full\n22B,49.42,7.64\n")
    monkeypatch.setattr("distlab.predict.validation.report.ask", lambda cells: peers.ask(cells, [LLM]))
    with pytest.raises(SystemExit):
        main(["scorecard", "--peers", "--cases", str(tmp_path)])
    out = capsys.readouterr().out
    assert "llm-analysis" in out
    assert "Leaves out:" in out
    with pytest.raises(SystemExit):
        main(["scorecard", "--peers", "--json", "--cases", str(tmp_path)])
    rows = json.loads(capsys.readouterr().out)
    assert [row.get("by") for row in rows] == [None, None, "llm-analysis", "llm-analysis"]
    assert rows[3]["measured"] == 7.64
    assert rows[3]["signed_error"] == pytest.approx(rows[3]["predicted"] / 7.64 - 1)


def test_tables_have_each_peer_on_the_cells_that_it_applies_to() -> None:
    near = Scored("f", "near", 1.0, 2.0, "states", False, unit="bytes")
    far = Scored("f", "far", 3.0, 2.0, "states", False, unit="bytes")
    given = [
        Answer(DEEPSPEED.name, near, 2.2),
        Answer(ACCELERATE.name, near, 4.0),
        Answer(ACCELERATE.name, far, 2.0),
    ]
    summary = side_by_side(given)
    assert [line.cells[2:] for line in summary.lines] == [
        ("DeepSpeed", "1", "10.0%", "10.0%", "10.0%", "50.0%", "50.0%", "50.0%"),
        ("Accelerate", "2", "50.0%", "50.0%", "100.0%", "50.0%", "50.0%", "50.0%"),
    ]
    (table,) = beside(given)
    assert table.columns == ("case", "measured", OURS, "DeepSpeed", "Accelerate")
    assert table.lines[1].cells == ("far", "2 bytes", "+50.0%", "", "+0.0%")
    assert len(described(given)) == 2


def test_no_peer_is_imported_before_it_is_asked() -> None:
    code = (
        "import sys, distlab.predict.peers, distlab.predict.validation.report as r; r.main(json=True);"
        "print({'torch', 'deepspeed', 'accelerate', 'llm_analysis', 'fire'} & set(sys.modules), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "set()"
