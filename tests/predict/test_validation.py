"""`distlab scorecard`: what it scores, what it says of what it cannot, and how it judges."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.cli import main
from distlab.errors import SettingError
from distlab.predict import megatron
from distlab.predict.cluster import cluster
from distlab.predict.network import SYSTEMS, predict_collective, system
from distlab.predict.step_time import Software, predict_step
from distlab.predict.transformer import Layout, Transformer
from distlab.predict.validation import Scored
from distlab.predict.validation.columns import FORMATS
from distlab.predict.validation.families import ANY, FAMILIES, NO_TARGET, WHY_MISSED, Target
from distlab.predict.validation.files import SENTENCES_MOST, score_folder
from distlab.predict.validation.formats import system_for, topology_for
from distlab.predict.validation.report import chosen, reasons, verdict, without_cases
from distlab.predict.validation.shipped import score_shipped
from distlab.predict.validation.targets import Group, groups, percentile_95

ALL_REDUCE = "# remark\nsystem,gpus,gpus_per_node,payload_bytes,time_ms\n"
ITERATION = (
    "model,heads,hidden,layers,tensor_parallel,pipeline_parallel,interleave,gpus,global_batch,micro_batch,recompute,"
    "iteration_s\n"
)
WEAK = "params_B,heads,hidden,layers,tensor_parallel,pipeline_parallel,gpus,global_batch,tflops_per_gpu\n"
ACTIVATION = "model,sequence_parallel,selective,selective+sequence,full\n"


def scorecard(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["scorecard", *args])
    return int(ended.value.code or 0)


def rows_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, object]], str]:
    assert scorecard("--cases", str(folder), "--json") == 0
    out, err = capsys.readouterr()
    rows = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no finite number"))
    for row in rows:
        assert list(row) == ["family", "case", "predicted", "measured", "signed_error"]
        assert row["signed_error"] == (row["predicted"] - row["measured"]) / row["measured"]
        assert math.isfinite(row["signed_error"])
    return rows, err


def test_one_row_for_each_measured_cell_of_each_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the files are called; by hand where it can be."""
    (tmp_path / "links.csv").write_text(f"{ALL_REDUCE}h100_dgx,8,8,67108864,0.33\n")
    (tmp_path / "steps.csv").write_text(
        f"{ITERATION}175B,96,12288,96,8,8,3,64,64,1,full,18.13\nmine,8,1024,4,1,1,1,1,1,1,none,1\n"
    )
    (tmp_path / "weak.CSV").write_text(f"\ufeff{WEAK}145.6,96,12288,80,8,8,1536,2304,148\n")
    (tmp_path / "kept.csv").write_text(f"{ACTIVATION}22B,66.84,49.42,16.18,7.64\nmine,1,2,3,4\n")
    (tmp_path / "notes.txt").write_text("no table")
    rows, err = rows_of(tmp_path, capsys)
    assert err == ""
    found = {(str(row["family"]), str(row["case"])): row for row in rows}
    assert len(found) == len(rows) == 1 + 2 + 1 + 8
    # Korthikanti et al., table 2: 2 of 10 + 24/t + 5 a s / (h t), with t = 8 and a s / h = 64/3.
    assert found["kept", "22B full"]["predicted"] == pytest.approx(200 / (13 + 40 / 3))
    # The same of `mine`, whose shape is in the file of steps: a s / h = 16.
    assert found["kept", "mine full"]["predicted"] == pytest.approx(200 / (13 + 10))
    assert found["weak", "145.6B"]["measured"] == 148
    assert found["weak", "145.6B"]["predicted"] == pytest.approx(148, rel=0.09)  # TFLOP/s
    assert found["steps", "175B full"]["predicted"] == pytest.approx(18.13, rel=0.09)  # seconds
    (link,) = (row for row in rows if row["family"] == "links")
    assert link["predicted"] == pytest.approx(0.33, rel=0.2)  # milliseconds


def test_weak_scaling_of_sizes_that_the_script_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of 1 and one chunk, otherwise as those that it has: 8 x 64 ranks ran so."""
    (tmp_path / "w.csv").write_text(f"{WEAK}1008,160,25600,128,8,64,3072,3072,163\n")
    (known,), _ = score_folder(tmp_path)
    monkeypatch.delitem(megatron.MICRO_BATCH_AND_CHUNKS, (8, 64))
    (cell,), problems = score_folder(tmp_path)
    assert problems.cells == 0
    assert cell == known


@pytest.mark.parametrize(
    ("values", "micro_batch", "chunks"),
    [
        ("36,1,1,64,512", 8, 1),
        ("40,8,8,512,1536", 2, 1),
        ("36,8,2,512,96", 1, 1),
        ("36,8,4,512,1536", 2, 3),
        ("36,8,4,512,160", 2, 1),
    ],
)
def test_weak_scaling_of_other_batches_and_layers_than_the_script_has(
    values: str, micro_batch: int, chunks: int
) -> None:
    """What of the script's micro-batch and chunks divides them: 8 samples on each GPU, 5 layers of a stage."""
    row = dict(zip(WEAK.strip().split(","), f"20,48,6144,{values},138".split(","), strict=True))
    layout = megatron.weak_scaling_case(row).layout
    assert (layout.micro_batch, layout.interleave) == (micro_batch, chunks)


def test_how_a_table_was_written_does_not_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link, other letters, remarks in another encoding or set in, empty rows, counts of a data frame."""
    plain = f"{ALL_REDUCE}h100_dgx,8,8,67108864,0.33\n"
    (tmp_path / "plain.csv").write_text(plain)
    (tmp_path / "link.csv").symlink_to(tmp_path / "plain.csv")
    (tmp_path / "capitals.csv").write_text(plain.replace("gpus", "GPUs").replace("time_ms", "Time_ms"))
    (tmp_path / "latin.csv").write_bytes(b"# \xb5s\n  # caf\xe9\n" + plain.encode() + b",,,,\n")
    (tmp_path / "frame.csv").write_text(plain.replace(",8,8,", ",8.0,8.0,"))
    rows, err = rows_of(tmp_path, capsys)
    assert err == ""
    assert len({row["predicted"] for row in rows}) == 1
    assert len(rows) == 5


def test_steps_may_have_a_sequence_and_a_vocabulary_of_their_own(tmp_path: Path) -> None:
    """Where there is no such column, or nothing in it, the tables' own hold."""
    start, end = "145.6,96,12288,80,8,8,1536,2304", "148"
    (tmp_path / "plain.csv").write_text(f"{WEAK}{start},{end}\n")
    header = WEAK.replace("tflops", "sequence,vocabulary,tflops")
    (tmp_path / "wide.csv").write_text(
        f"{header}{start},2048,51200.0,{end}\n{start},,,{end}\n{start},8192,,{end}\n{start},-1,,{end}\n"
    )
    (plain, same, bare, longer), problems = score_folder(tmp_path)
    assert plain.predicted == same.predicted == bare.predicted
    assert isinstance(longer.inputs, megatron.Case)
    assert longer.inputs.model.sequence == 8192
    assert "sequence is '-1'" in problems.sentences[0]


def test_columns_that_only_name_a_row_may_be_absent_and_others_are_missed(tmp_path: Path) -> None:
    cells = "heads,hidden,layers,tensor_parallel,pipeline_parallel,gpus,global_batch"
    (tmp_path / "a.csv").write_text(
        f"{cells},tflops_per_gpu\n24,2304,24,1,1,32,512,137\n24,2304,24,2,3,96,512,1\n"
    )
    more = f"{cells},micro_batch,recompute,interleave,iteration_s\n64,6144,48,8,1,8,4,4,full,1,1.4\n"
    (tmp_path / "b.csv").write_text(more)
    (tmp_path / "c.csv").write_text(more.replace("interleave", "chunks"))
    (tmp_path / "d.csv").write_text("full,model\n7,22B\n")
    (tmp_path / "e.csv").write_text("full\n7\n")
    scored, problems = score_folder(tmp_path)
    assert [cell.case for cell in scored] == ["?B", "?B", "model full", "22B full"]
    assert problems.sentences[1] == (
        "c.csv, iteration_s: none of its 1 rows was scored, for these columns are missing: interleave; add them."
    )
    assert problems.ignored == (
        "c.csv: ignored: chunks; `distlab scorecard --formats` has the columns that count.",
    )
    assert (problems.cells, problems.files) == (1, 1)


def test_all_missing_columns_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("time_ms,system,note\n1,x,\n2,y,\n")
    rows, err = rows_of(tmp_path, capsys)
    assert rows == []
    said, unread, counted = err.splitlines()
    assert "none of its 2 rows" in said
    assert "gpus, gpus_per_node, payload_bytes; add them" in said
    assert "a.csv: ignored: note;" in unread
    assert counted == "Not scored: 2 cells, 0 whole files."


def step_file(folder: Path, more: dict[str, str], unit: str = "iteration_s") -> tuple[Scored | None, str]:
    """A step with these columns beside those that it needs: its cell and what was said, if any."""
    values = "m,64,8192,80,8,4,1,64,64,1,full,20"
    row = dict(zip(ITERATION.strip().split(","), values.split(","), strict=True))
    row = {unit if name == "iteration_s" else name: text for name, text in {**row, **more}.items()}
    (folder / "steps.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    scored, problems = score_folder(folder)
    return scored[0] if scored else None, " ".join([*problems.sentences, *problems.ignored])


LLAMA = {"vocabulary": "128256", "sequence": "8192", "kv_heads": "8", "gated": "yes", "feed_forward": "28672"}
LLAMA |= {"tied_embedding": "no", "learned_positions": "no", "biases": "no"}
OTHER = {
    "experts": "8",
    "head_size": "64",
    "context_parallel": "2",
    "zero_stage": "1",
    "schedule": "zero_bubble",
}
OTHER |= {
    "sequence_parallel": "True",
    "cluster": "dgx_h100",
    "fused_attention": "yes",
    "overlap_tensor": "no",
}
OTHER |= {"overlap_gradients": "yes", **LLAMA}
"""Another value than the one that holds without the column."""


@pytest.mark.parametrize("unit", ["iteration_s", "tflops_per_gpu"])
def test_what_a_step_file_names_counts(tmp_path: Path, unit: str) -> None:
    """With all that `predict step` is told, the same to the last digit."""
    more = {
        **LLAMA,
        "cluster": "dgx_h100",
        "sequence_parallel": "yes",
        "fused_attention": "yes",
        "zero_stage": "1",
    }
    found, said = step_file(tmp_path, {**more, "data_parallel": "2", "overlap_gradients": "yes"}, unit)
    assert found is not None
    assert said == ""
    model = Transformer(
        "m", 80, 8192, 64, 128256, 8192, 8, 28672, gated=True, tied_embedding=False, learned_positions=False,
        biases=False,
    )  # fmt: skip
    layout = Layout(
        data=2, tensor=8, pipeline=4, sequence_parallel=True, global_batch=64, recompute="full", zero_stage=1
    )
    step = predict_step(model, layout, cluster("dgx_h100"), Software(overlap_tensor=unit == "iteration_s"))
    assert found.predicted == (step.step_s if unit == "iteration_s" else step.flops_per_gpu / 1e12)


@pytest.mark.parametrize("name", OTHER)
def test_each_optional_column_of_a_step_is_read(tmp_path: Path, name: str) -> None:
    plain, _ = step_file(tmp_path, {})
    with_it, said = step_file(tmp_path, {name: OTHER[name]})
    assert plain is not None
    assert said == ""
    assert with_it is not None
    assert plain.inputs != with_it.inputs


def test_optional_columns_that_cannot_be_are_said(tmp_path: Path) -> None:
    wrong = {
        "data_parallel": "3",
        "gated": "perhaps",
        "cluster": "dgx_h900",
        "schedule": "slow",
        "zero_stage": "7",
    }
    for name, text in wrong.items():
        found, said = step_file(tmp_path, {name: text})
        assert found is None
        assert f"{text}" in said
    found, said = step_file(tmp_path, {"optimizer": "adam", "note": "x"})
    assert found is not None
    assert said.startswith("steps.csv: ignored: optimizer, note;")


def test_collectives_may_name_operation_way_and_sizes_with_units(tmp_path: Path) -> None:
    header = "system,gpus,gpus_per_node,payload_bytes,op,algorithm,protocol,time_ms"
    rows = [
        "1GiB,,,",
        "1073741824,all_reduce,,",
        "1 GiB,ncclAllGather,,",
        "1GiB,all-to-all,,",
        "1GiB,,ring,simple",
    ]
    (tmp_path / "a.csv").write_text("\n".join([header, *(f"dgx_h100,8,8,{row},3" for row in rows)]))
    (tmp_path / "b.csv").write_text(
        f"{header}\ndgx_h100,8,8,1Gb,,,,3\ndgx_h100,8,8,1,sum,,,3\ndgx_h100,8,8,1,,star,,3\n"
    )
    scored, problems = score_folder(tmp_path)
    topology = system("dgx_h100", 8, 8)
    expected = [
        predict_collective("all_reduce", 2**30, topology),
        predict_collective("all_reduce", 2**30, topology),
        predict_collective("all_gather", 2**30, topology),
        predict_collective("all_to_all", 2**30, topology),
        predict_collective("all_reduce", 2**30, topology, "ring", "Simple"),
    ]
    assert [cell.predicted for cell in scored] == [1e3 * one.total_s for one in expected]
    assert len({cell.case for cell in scored}) == 4
    for sentence, said in zip(
        problems.sentences, ("in bits", "op is 'sum'", "algorithm is 'star'"), strict=True
    ):
        assert said in sentence


def test_nodes_that_are_not_all_full() -> None:
    """12 GPUs on nodes of 8 are 2 nodes of 6; 4 GPUs of a node of 8 are 4."""
    assert topology_for("h100_dgx", 12, 8) == system("h100_dgx", 12, 6)
    assert topology_for("h100_dgx", 4, 8) == system("h100_dgx", 4, 4)


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("h100_dgx", "h100_dgx"),
        ("p5.48xlarge", "p5"),
        ("Our H200 cluster", "dgx_h200"),
        ("gb200_nvl", "dgx_b200"),
        ("a100_pcie", "a100_pairwise_nvlink"),
        ("azure_a100_v9", "dgx_a100"),
    ],
)
def test_an_unknown_system_is_the_generic_one_of_its_hardware(name: str, stands_for: str) -> None:
    assert system_for(name) == stands_for
    assert system(stands_for, 2, 2).gpus == 2


def test_cards_are_joined_by_their_slots() -> None:
    found = topology_for("a40_pairwise_nvlink", 4, 4)
    assert "PCIe 4" in found.inside.name
    assert 15e9 < found.inside.bandwidth_Bps < 31.5e9
    for name in ("l4", "a10g", "a100_pairwise_nvlink"):
        apart, together = topology_for(name, 8, 4), topology_for(name, 4, 4)
        assert apart.nodes == 2
        assert apart.fabric is not None
        assert apart.fabric.node_Bps(4) < 12.5e9 < together.inside.bandwidth_Bps
    assert "NVLink" in topology_for("a100_t4x", 4, 4).inside.name  # a word, not a part of one


def test_hardware_that_nobody_can_tell_is_refused() -> None:
    with pytest.raises(SettingError, match="system is 'laptop'"):
        system_for("laptop")
    assert all(system_for(name) == name for name in SYSTEMS)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (f"{ALL_REDUCE}laptop,8,8,1e6,1\n", "system is 'laptop'"),
        (f"{ALL_REDUCE}h100_dgx,8,8,nan,1\n", "payload_bytes is 'nan'"),
        (f"{ALL_REDUCE}h100_dgx,8,8,-5,1\n", "payload_bytes is '-5'"),
        (f"{ALL_REDUCE}h100_dgx,8,8,1e6,inf\n", "time_ms is 'inf'"),
        (f"{ALL_REDUCE}h100_dgx,8,8,1e6,0\n", "time_ms is '0'"),
        (f"{ALL_REDUCE}h100_dgx,8,8,1e6,1e-320\n", "time_ms is '1e-320'"),
        (f"{ALL_REDUCE}h100_dgx,8,8,1e306,1\n", "payload_bytes is '1e306'"),
        (f"{ALL_REDUCE}h100_dgx,32,16,1e6,1\n", "gpus_per_node is 16"),
        (f"{ALL_REDUCE}h100_dgx,{'9' * 4999},8,1e6,1\n", "gpus is '999"),
        (f"{ALL_REDUCE}h100_dgx,1,1,1e6,1\n", "gpus is 1"),
        (f"{ALL_REDUCE}h100_dgx,8\n", "gpus_per_node is ''"),
        (f"{ALL_REDUCE}h100_dgx,8,8,1e6,1,7\n", "6 cells, of 5 columns"),
        (f"{ITERATION}x,64,6144,48,8,1,1,8,4,4,twice,1\n", "recompute is 'twice'"),
        (f"{ITERATION}x,0,6144,48,8,1,1,8,4,4,full,1\n", "heads is '0'"),
        (f"{ITERATION}x,64,6144,48,8,1,{'9' * 3000},8,4,4,full,1\n", "interleave"),
        (f"{ITERATION}x,64,6144,48,8,5,1,40,4,4,full,1\n", "layers"),
        (f"{WEAK}1,64,6144,48,-8,1,8,8,100\n", "tensor_parallel is '-8'"),
        (f"{WEAK}1,64,6144,48,8,1,8,8,-inf\n", "tflops_per_gpu is '-inf'"),
        ("model,full\nnobody's,3\n", "model is"),
        ("model,full\n22B,\n", "full is ''"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence_and_counted(
    table: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text(table)
    rows, err = rows_of(tmp_path, capsys)
    sentence, counted = err.splitlines()
    assert rows == []
    assert sentence.startswith("bad.csv, row 1, was not scored: ")
    assert said in sentence
    assert len(sentence) < 500
    assert sentence.endswith(".")
    assert counted == "Not scored: 1 cells, 0 whole files."


@pytest.mark.parametrize(
    "content",
    [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"time_ms,time_ms\n1,2\n", b"time_ms\n" + b"9" * 200_000],
)
def test_a_file_that_is_no_such_table_is_said_and_the_others_are_scored(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad\x1b.csv").write_bytes(content)
    (tmp_path / "dir.csv").mkdir()
    (tmp_path / "link.csv").symlink_to("/etc/passwd")
    (tmp_path / "good.csv").write_text(f"{ALL_REDUCE}h100_dgx,8,8,1e6,1\n")
    rows, err = rows_of(tmp_path, capsys)
    assert [row["family"] for row in rows] == ["good"]
    assert "\x1b" not in err
    assert len(err.splitlines()) == 4
    assert "bad?.csv was not read: " in err
    assert "link.csv was not read: " in err
    assert "3 whole files" in err


def test_many_wrong_rows_are_counted_not_listed(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(ALL_REDUCE + 50 * "laptop,8,8,1,1\n")
    scored, problems = score_folder(tmp_path)
    assert (scored, problems.cells, len(problems.sentences)) == ([], 50, SENTENCES_MOST + 1)
    assert "40 more" in problems.sentences[-1]


def test_the_largest_numbers_that_are_let_in_take_no_time(tmp_path: Path) -> None:
    most = 10**9
    (tmp_path / "a.csv").write_text(
        f"{ITERATION}x,{most},{most},{most},{most},{most},1,{most**2},{most},1,full,1\n"
    )
    (tmp_path / "b.csv").write_text(f"{ITERATION}x,1,{most},{most},1,1,1,{most},{most},1,full,1\n")
    (tmp_path / "c.csv").write_text(f"{ALL_REDUCE}h100_dgx,{8 * 10**7},8,1e15,1\n")
    scored, problems = score_folder(tmp_path)
    assert (len(scored), problems.cells) == (2, 1)


def test_no_folder_or_one_without_tables_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scorecard("--cases", str(tmp_path / "none"), "--json") == 2
    assert "which is no folder" in capsys.readouterr().err
    assert scorecard("--cases", str(tmp_path), "--json") == 2
    out, err = capsys.readouterr()
    assert (out, "no CSV file" in err) == ("", True)


def test_a_folder_that_cannot_be_read_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)  # modes do not stop root, who may run this
    assert scorecard("--cases", str(tmp_path), "--json") == 2
    assert "cannot be read (Permission denied)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shipped() -> list[Scored]:
    return score_shipped()


@pytest.fixture(scope="module")
def judged(shipped: list[Scored]) -> list[Group]:
    """Groups of the package's cases that have a target and that no fit used."""
    return [group for group in groups(shipped) if not group.fitted and group.target != NO_TARGET]


def test_each_cell_has_a_name_of_its_own(shipped: list[Scored]) -> None:
    names = [(cell.family, cell.case) for cell in shipped]
    assert sorted(set(names)) == sorted(names)


def test_what_was_fitted_is_what_the_fits_say(shipped: list[Scored]) -> None:
    steps = [c for c in shipped if c.family.startswith("megatron")]
    used = {"collective", "step", "scaling"}
    assert {c.family for c in steps if c.fitted} == {"megatron_iteration_time", "megatron_weak_scaling"}
    assert {c.family for c in steps if not c.fitted} == {"megatron_530b", "megatron_left_out"}
    assert {c.kind for c in shipped if c.fitted} <= used
    links = [c for c in shipped if c.family.startswith("all_reduce")]
    assert not any(c.fitted for c in links if c.payload_bytes <= 2**20)
    large = [c.fitted for c in links if c.payload_bytes > 2**20]
    assert sum(large) == pytest.approx(len(large) / 2, abs=1)


def test_a_model_that_is_left_out_is_predicted_by_a_fit_to_the_others(shipped: list[Scored]) -> None:
    left_out = [c for c in shipped if c.family == "megatron_left_out"]
    assert len(left_out) == len(megatron.FITTED)
    case = next(case for case in megatron.FITTED if case.model.name == "529.6B")
    others = megatron.fit([c for c in megatron.FITTED if c.model.name != "529.6B"])
    (cell,) = (c for c in left_out if c.case == "529.6B")
    assert cell.predicted == case.step(others).step_s != case.step().step_s
    assert cell.measured == case.measured_step_s


def test_targets_that_the_package_misses_are_known_and_say_why(judged: list[Group]) -> None:
    """Of cases that no fit used. A target that is missed newly, or met at last, changes this test and the sentences."""
    missed = [group for group in judged if group.misses]
    published = {(group.family, group.name) for group in missed if FAMILIES[group.family].tier == "published"}
    assert published == {(family, name) for family, name in WHY_MISSED if name != ANY}
    assert all(group.why for group in missed)


def test_collectives_steps_and_activations_meet_theirs(judged: list[Group]) -> None:
    """The recorded all-reduces, the published steps and the activations: what the targets were set for."""
    names = ("all_reduce", "megatron", "activation", "failure", "own_memory")
    meant = [group for group in judged if group.family.startswith(names)]
    assert len(meant) >= 15
    assert [f"{group.family} {group.name}" for group in meant if group.misses] == []


def test_each_family_is_described(shipped: list[Scored]) -> None:
    families = list(dict.fromkeys(cell.family for cell in shipped))
    assert families == [
        name for name in FAMILIES if name in families
    ]  # of one of our own the file may be missing
    assert len(families) >= 12
    for family in FAMILIES.values():
        for sentence in (family.split, family.leaves_out):
            assert sentence.endswith(".")


def cell(measured: float, predicted: float = 1.0, payload: float = 2.0**21, per_node: int = 8) -> Scored:
    return Scored("f", "c", predicted, measured, "collective", False, ("s", 8, per_node), payload)


def test_collectives_are_judged_by_neighbours_where_these_are_noisy() -> None:
    (lone,) = groups([cell(1.0)])
    assert lone.target == Target(mean=0.04)
    (across,) = groups([cell(1.0, per_node=4)])
    assert across.target == Target(mean=0.10)
    # The line between 1 and 4 over twice and four times the size is 2 in the middle: 3 is a third off.
    (noisy,) = groups([cell(1.0), cell(3.0, payload=2.0**22), cell(4.0, payload=2.0**23)])
    assert noisy.target.mean == pytest.approx(1.25 / 3)
    (small,) = groups([cell(1.0, payload=2.0**20)])
    assert small.target == NO_TARGET
    assert not small.misses


def test_misses_of_one_reason_are_said_together() -> None:
    cells = [replace(cell(1.0, predicted=2.0), family="own_gloo_all_reduce", run=("s", n, n)) for n in (2, 4)]
    found = groups([*cells, cell(1.0, predicted=2.0)])
    assert [len(together) for together in reasons(found).values()] == [2, 1]
    said = verdict([*cells], found)
    assert said[1] == "Targets are for cases that no fit used: missed by 3 of 3 such groups."
    assert said[2].startswith("own_gloo_all_reduce, s, 1 x 2; s, 1 x 4: Processes share")
    assert len(said) == 4  # of the last one nobody knows why


def test_a_miss_is_one() -> None:
    assert groups([cell(1.0, predicted=1.05)])[0].misses
    assert not groups([cell(1.0, predicted=0.97)])[0].misses
    step = Scored("f", "c", 1.1, 1.0, "step", False)
    assert groups([step])[0].misses  # more than 9% in one
    assert percentile_95([float(i) for i in range(1, 101)]) == 95
    with pytest.raises(ValueError, match="no errors"):
        percentile_95([])


def test_states_are_exact_counts_in_their_interval_and_shares_within_points() -> None:
    def judged(kind: str, predicted: float, interval: tuple[float, float] | None = None) -> bool:
        unfitted = Scored("f", "c", predicted, 90.0, kind, False, interval=interval)  # type: ignore[arg-type]
        return groups([unfitted])[0].misses

    assert [judged("states", 90.0), judged("states", 90.0000001)] == [False, True]
    assert [judged("failures", 50.0, (40, 90)), judged("failures", 90.0, (91, 99))] == [False, True]
    assert judged("failures", 90.0)  # without an interval nothing can lie in it
    assert [judged("goodput", 88.0), judged("goodput", 92.1)] == [False, True]
    assert not judged("scaling", 1.0)  # has no target


def test_the_table_shows_misses_and_what_was_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    (tmp_path / "s[red].csv").write_text(
        f"{ITERATION}22B,64,6144,48,8,1,1,8,4,4,full,1.42\n22B,64,6144,48,8,1,1,8,4,4,none,9\n"
    )
    (tmp_path / "far.csv").write_text(ALL_REDUCE + 2 * "h100_dgx,8,8,1e30,1e-30\n")
    assert scorecard("--cases", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "4 cells, 1 of them used in a fit" in out
    assert "missed by 2 of 2 such groups" in out
    assert "s[red]" in out
    red = [line for line in out.splitlines() if "\x1b[31m" in line]
    assert len(red) == 3  # both groups, and the case of one
    assert all("no" in line and "missed" in line for line in red)  # not by colour alone


@pytest.fixture
def two_families(tmp_path: Path) -> Path:
    """Held out alike: one far off, one (below 1 MiB) without a target."""
    (tmp_path / "far.csv").write_text(f"{ALL_REDUCE}dgx_h100,8,8,1GiB,1e-3\n")
    (tmp_path / "small.csv").write_text(f"{ALL_REDUCE}dgx_h100,8,8,1KiB,1e-3\ndgx_h100,8,8,2KiB,1e-3\n")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        ([], ["far", "small", "small"]),
        (["--family", "small"], ["small", "small"]),
        (["--family", "small", "--family", "far"], ["far", "small", "small"]),
        (["--misses"], ["far"]),
    ],
)
def test_some_families_or_the_misses_alone(
    options: list[str], cells: list[str], two_families: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scorecard("--cases", str(two_families), "--json", *options) == 0
    assert [row["family"] for row in json.loads(capsys.readouterr().out)] == cells


def test_the_summary_comes_first_and_all_cells_are_there_to_be_had(
    two_families: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scorecard("--cases", str(two_families)) == 0
    out = capsys.readouterr().out
    assert out.index("signed mean") < out.index("1073741824 bytes")
    assert "1024 bytes" not in out
    assert "\n2 cells that meet their targets, or have none, are not listed; --all" in out
    assert scorecard("--cases", str(two_families), "--all") == 0
    out = capsys.readouterr().out
    assert "1024 bytes" in out
    assert "not listed" not in out


def test_a_file_that_is_too_long_is_refused_before_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "long.csv").open("wb") as file:
        file.truncate(20 * 2**20)
    assert scorecard("--cases", str(tmp_path), "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert (
        "long.csv was not read: it has 20,971,520 bytes; a file has at most 16,777,216: split it."
        in printed.err
    )


def test_of_very_many_misses_the_furthest_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distlab.predict.validation.report.FAR_OFF_MOST", 3)
    rows = "".join(f"dgx_h100,8,8,{size}MiB,1e3\n" for size in (3, 4, 5, 6, 7))
    (tmp_path / "far.csv").write_text(ALL_REDUCE + rows)
    assert scorecard("--cases", str(tmp_path)) == 0
    out = capsys.readouterr().out
    listed = [size for size in (3, 4, 5, 6, 7) if f"{size * 2**20} bytes" in out]
    assert listed == [3, 4, 5]  # the shortest are the furthest from a second
    assert (
        "\n2 cells that meet their targets, or have none, or of a group are not among the 3 furthest off,"
        in out
    )
    assert scorecard("--cases", str(tmp_path), "--all") == 0
    assert "not listed" not in capsys.readouterr().out


def test_of_a_group_the_cells_that_miss_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, _ = step_file(tmp_path, {"cluster": "dgx_h100"})
    assert right is not None
    more, (low, high) = "m,64,8192,80,8,4,1,64,64,1,full,{},{}\n", ("dgx_h100", "dgx_a100")
    header = ITERATION.replace("iteration_s", "iteration_s,cluster")
    rows = more.format(repr(right.predicted), low) + more.format(repr(right.predicted), high)
    (tmp_path / "steps.csv").write_text(header + rows)
    assert scorecard("--cases", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "m full, dgx_a100" in out
    assert "m full, dgx_h100" not in out
    (tmp_path / "steps.csv").write_text(header + more.format(repr(right.predicted), low))
    assert scorecard("--cases", str(tmp_path), "--misses") == 0
    assert capsys.readouterr().out == "No group misses its target.\n"


def test_a_family_without_cases_is_said(two_families: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scorecard("--cases", str(two_families), "--family", "farr") == 2
    assert "family is 'farr'; it is one of far, small." in capsys.readouterr().err
    with pytest.raises(SettingError, match="family is 'own_memory', of which the package has no cases yet"):
        chosen([cell(1.0)], ["own_memory"], without_cases([cell(1.0)]))
    assert without_cases([replace(cell(1.0), family=name) for name in FAMILIES]) == []


def test_the_formats_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Each column once for each kind of measurement, with what holds without it."""
    assert scorecard("--formats") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    for name, one in FORMATS.items():
        assert any(line[0] == name and line[-1] == "measured" for line in lines)
        for column in one.columns:
            end = "needed" if column.otherwise is None else column.otherwise.split()[-1]
            assert any(line[0] == column.name and line[-1] == end for line in lines)


def test_the_larger_cases() -> None:
    """Every cell of DISTLAB_CASES is scored, and what no fit used meets the targets."""
    folder = os.environ.get("DISTLAB_CASES")
    if not folder:
        warnings.warn("DISTLAB_CASES is not set: only the cases in the package were scored", stacklevel=1)
        return
    scored, problems = score_folder(Path(folder))
    assert (problems.cells, problems.files) == (0, 0)
    missed = [group for group in groups(scored) if group.misses and not group.fitted]
    assert [f"{group.family} {group.name}" for group in missed] == []


def test_neither_torch_nor_numpy_is_needed() -> None:
    code = "import sys, distlab.predict.validation.report; print({'torch', 'numpy'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
