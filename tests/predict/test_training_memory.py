"""Memory of training: states against the ZeRO paper, estimators and real models; activations against Korthikanti's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.predict.activations import (
    in_flight,
    layer_activations,
    relative_activations,
    weight_gradient_bytes,
)
from distlab.predict.memory import StateBytes, zero_memory
from distlab.predict.states import MemorySettings, layer_weights, rank_states
from distlab.predict.training_memory import TrainingMemory, training_memory
from distlab.predict.transformer import Layout, Recompute, Transformer, ZeroStage

MEGATRON = MemorySettings(
    precision="mixed_fp32_gradients", attention="scores", dropout=True, gradient_buffers=True
)
GPT_22B = Transformer("22B", layers=48, hidden=6144, heads=64, vocabulary=51200, sequence=2048)
GPT_175B = Transformer("175B", layers=96, hidden=12288, heads=96, vocabulary=51200, sequence=2048)
LAYOUT_22B = Layout(tensor=8, micro_batch=4, global_batch=4)
LAYOUT_175B = Layout(tensor=8, pipeline=8, interleave=3, global_batch=64)
LLAMA = Transformer(
    "Llama 3 8B", layers=32, hidden=4096, heads=32, kv_heads=8, vocabulary=128256, sequence=8192,
    feed_forward=14336, gated=True, tied_embedding=False, learned_positions=False, biases=False,
)  # fmt: skip
MIXTRAL = replace(LLAMA, name="Mixtral", vocabulary=32000, experts=8, active_experts=2)
SMALL = Transformer("small", layers=8, hidden=64, heads=8, vocabulary=512, sequence=32)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Of SMALL or of its variants, whatever can be."""
    pipeline = draw(st.sampled_from([1, 2, 4]))
    interleave = draw(st.sampled_from([1, 2])) if pipeline > 1 else 1
    groups = pipeline if interleave > 1 else 1
    data, micro_batch = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3))
    return Layout(
        data=data,
        tensor=draw(st.sampled_from([1, 2, 4])),
        pipeline=pipeline,
        context=draw(st.sampled_from([1, 2])),
        sequence_parallel=draw(st.booleans()),
        interleave=interleave,
        schedule=draw(st.sampled_from(["gpipe", "1f1b", "interleaved", "zero_bubble"])),
        micro_batch=micro_batch,
        global_batch=data * micro_batch * groups * draw(st.integers(1, 9)),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        zero_stage=draw(st.sampled_from([0, 1, 2, 3])),
    )


all_settings = st.builds(
    MemorySettings,
    optimizer=st.sampled_from(["adamw", "sgd", "sgd_momentum", "adamw_8bit"]),
    precision=st.sampled_from(["mixed", "mixed_fp32_gradients", "autocast", "fp32", "bf16"]),
    attention=st.sampled_from(["flash", "scores"]),
    dropout=st.booleans(),
    loss=st.sampled_from(["in_place", "torch"]),
    offload=st.sampled_from(["none", "optimizer"]),
    gradient_buffers=st.booleans(),
    fused_kernels=st.booleans(),
)
models = st.builds(
    replace,
    st.just(SMALL),
    gated=st.booleans(),
    biases=st.booleans(),
    tied_embedding=st.booleans(),
    kv_heads=st.sampled_from([None, 2, 4]),
    vocabulary=st.sampled_from([64, 512, 8192]),
)


# States


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_states_are_those_of_the_zero_paper(stage: Any) -> None:
    held = rank_states(GPT_22B, Layout(data=64, global_batch=64, zero_stage=stage), MemorySettings(), 0)
    expected = zero_memory(GPT_22B.parameters, 64, stage)
    assert held.parameter_bytes == expected.parameter_bytes
    assert held.gradient_bytes == expected.gradient_bytes
    assert held.master_bytes + held.moment_bytes == expected.optimizer_bytes
    assert held.total_bytes == expected.total_bytes


def test_deepspeeds_estimators() -> None:
    """estimate_zero2_ and estimate_zero3_model_states_mem_needs of DeepSpeed 0.19.8, restated."""
    n, total = 16, LLAMA.parameters
    layout = Layout(data=n, global_batch=n, zero_stage=3)
    megatron = MemorySettings(precision="mixed_fp32_gradients", prefetch=0)
    assert rank_states(LLAMA, layout, megatron, 0).total_bytes == pytest.approx(18 * total / n)
    backward = training_memory(LLAMA, layout, megatron).at("backward end")
    held = {term.name: term.bytes for term in backward.terms}
    layer = LLAMA.layer_parameters
    assert held["gathered layers"] + held["whole gradients of a layer"] == 4 * layer
    # Stage 2 keeps 16-bit and fp32 gradients there.
    assert zero_memory(total, n, 2, StateBytes(2, 6, 12)).total_bytes == 2 * total + 18 * total / n
    offloaded = training_memory(LLAMA, replace(layout, zero_stage=2), MemorySettings(offload="optimizer"))
    assert [t.bytes for t in offloaded.peak.terms if t.kind == "states"] == [2 * total]
    assert offloaded.host_bytes == 14 * total / n


def test_accelerates_estimator() -> None:
    """estimate_training_usage of Accelerate 1.15: fp32 4 + 4 + 8; mixed 4 + (4 + 2) + 8."""
    n = LLAMA.parameters
    assert rank_states(LLAMA, Layout(), MemorySettings(precision="fp32"), 0).total_bytes == 16 * n
    mixed = training_memory(LLAMA, Layout(), MemorySettings(precision="autocast")).at("embedding backward")
    chosen = [t.bytes for t in mixed.terms if t.kind == "states" or t.name.startswith("16-bit copies")]
    assert sum(chosen) == 18 * n


@pytest.mark.parametrize(
    ("optimizer", "precision", "each"),
    [
        ("adamw", "mixed", 16),
        ("adamw", "mixed_fp32_gradients", 18),
        ("adamw", "fp32", 16),
        ("adamw", "bf16", 8),
        ("sgd_momentum", "fp32", 12),
        ("sgd_momentum", "mixed", 12),
        ("sgd", "fp32", 8),
        ("sgd", "mixed", 8),
    ],
)
def test_bytes_of_a_parameter(optimizer: Any, precision: Any, each: int) -> None:
    held = rank_states(LLAMA, Layout(), MemorySettings(optimizer, precision), 0)
    assert held.total_bytes == each * LLAMA.parameters


def test_optimizers_whose_state_depends_on_shapes() -> None:
    model = Transformer(
        "one", layers=1, hidden=64, heads=4, vocabulary=16, sequence=8, learned_positions=False, biases=False
    )
    matrices = [(64, 64)] * 4 + [(256, 64), (64, 256), (16, 64)]
    vectors = 3 * 64
    adafactor = rank_states(model, Layout(), MemorySettings("adafactor", "fp32"), 0)
    assert adafactor.moment_bytes == 4 * (sum(rows + columns for rows, columns in matrices) + vectors)
    eight = rank_states(model, Layout(), MemorySettings("adamw_8bit", "fp32"), 0)
    coded = 4 * 64 * 64 + 2 * 256 * 64  # the embedding is below 4096 values
    assert eight.moment_bytes == 2 * (coded + 4 * coded / 256) + 8 * (16 * 64 + vectors)


@settings(max_examples=60, deadline=None)
@given(models, layouts())
def test_ranks_hold_the_model_between_them(model: Transformer, layout: Layout) -> None:
    layout = replace(layout, zero_stage=0)
    bare = MemorySettings("sgd", "fp32")

    def total(layout: Layout) -> int:
        return sum(rank_states(model, layout, bare, rank).parameters for rank in range(layout.pipeline))

    copy = model.hidden * model.vocabulary if model.tied_embedding and layout.pipeline > 1 else 0
    assert total(replace(layout, tensor=1)) == model.parameters + copy
    shared = total(layout) * layout.tensor - model.parameters - copy  # what all tensor-parallel ranks have
    lone_keys = max(0, layout.tensor // model.key_value_heads - 1)
    keys = 2 * model.key_value_heads * model.head_width * (model.hidden + model.biases) * lone_keys
    whole = model.norm_parameters + (2 * model.hidden if model.biases else 0)
    ends = model.hidden * (model.sequence + (2 if model.biases else 1))
    assert shared == (layout.tensor - 1) * (model.layers * whole + ends) + model.layers * keys


def test_experts_are_dealt_out() -> None:
    bare = MemorySettings("sgd", "fp32")
    whole = rank_states(MIXTRAL, Layout(data=8, global_batch=8), bare, 0).parameters
    cut = rank_states(MIXTRAL, Layout(data=8, expert=4, global_batch=8), bare, 0).parameters
    assert whole == MIXTRAL.parameters
    assert whole - cut == MIXTRAL.layers * 6 * MIXTRAL.expert_parameters
    # With all shared out, experts lie on fewer ranks each: the sum over ranks is the same.
    sharded = [
        rank_states(MIXTRAL, Layout(data=8, expert=e, global_batch=8, zero_stage=3), MemorySettings(), 0)
        for e in (1, 4, 8)
    ]
    assert {held.total_bytes for held in sharded} == {16 * MIXTRAL.parameters / 8}


# Activations


@pytest.mark.parametrize(
    ("model", "layout", "published"),
    [  # Korthikanti et al. 2022, figure 7, percent: sequence parallel, selective, both, full
        (GPT_22B, LAYOUT_22B, (66.84, 49.42, 16.18, 7.64)),
        (GPT_175B, LAYOUT_175B, (62.04, 56.53, 18.49, 8.71)),
    ],
)
def test_activations_are_the_published_ones(model: Transformer, layout: Layout, published: Any) -> None:
    choices: list[Any] = [(True, "none"), (False, "selective"), (True, "selective"), (False, "full")]
    for (sequence, recompute), percent in zip(choices, published, strict=True):
        chosen = replace(layout, sequence_parallel=sequence, recompute=recompute)
        assert 100 * relative_activations(model, chosen, MEGATRON) == pytest.approx(percent, rel=0.01)


@given(
    st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.sampled_from([128, 1024]), st.sampled_from([8, 16])
)
def test_a_layer_keeps_what_the_papers_equations_say(t: int, b: int, s: int, a: int) -> None:
    """Table 2 of Korthikanti et al.: the five ways, in bytes."""
    h = 64 * a
    model = Transformer("table 2", layers=2, hidden=h, heads=a, vocabulary=64, sequence=s)
    sbh, scores = s * b * h, 5 * a * s / h
    expected: dict[tuple[bool, Recompute], float] = {
        (False, "none"): sbh * (10 + 24 / t + scores / t),
        (True, "none"): sbh * (34 / t + scores / t),
        (False, "selective"): sbh * (10 + 24 / t),
        (True, "selective"): sbh * 34 / t,
        (False, "full"): sbh * 2,
    }
    for (sequence, recompute), value in expected.items():
        layout = Layout(tensor=t, micro_batch=b, global_batch=b, sequence_parallel=sequence)
        assert layer_activations(model, layout, MEGATRON).kept(recompute) == pytest.approx(value)
    assert (
        weight_gradient_bytes(model, Layout(micro_batch=b, global_batch=b), MEGATRON) == 32 * sbh
    )  # Qi et al., table 1


def test_what_saves_activations() -> None:
    """Each in its part alone."""
    layout = Layout(global_batch=1)
    plain = layer_activations(LLAMA, layout, MemorySettings(attention="scores"))
    flash = layer_activations(LLAMA, layout, MemorySettings())
    n, a = LLAMA.sequence, LLAMA.heads
    assert (plain.scores, flash.scores) == (2 * n * n * a, 0)
    assert flash.attention - plain.attention == 4 * n * a
    assert flash.kept("selective") == flash.kept("none")
    whole_heads = layer_activations(replace(LLAMA, kv_heads=None), layout, MemorySettings())
    assert whole_heads.attention - flash.attention == 2 * n * 2 * 24 * 128
    assert flash.mlp == 2 * n * 3 * 14336
    dropped = layer_activations(LLAMA, layout, MemorySettings(dropout=True))
    assert dropped.total - flash.total == 2 * n * 4096
    halved = layer_activations(LLAMA, Layout(context=2), MemorySettings())
    assert halved.total == flash.total / 2
    experts = layer_activations(MIXTRAL, layout, MemorySettings())
    assert experts.mlp == 2 * flash.mlp
    assert experts.routing == 2 * 2 * 2 * n * 4096 + 2 * 4 * n * 8
    assert layer_activations(LLAMA, layout, MemorySettings(precision="fp32")).mlp == 2 * flash.mlp


# Pipelines


@pytest.mark.parametrize(
    ("schedule", "m", "layers"),
    [  # 8 layers on 4 ranks: layers times micro-batches on each rank
        ("gpipe", 6, [12, 12, 12, 12]),
        ("1f1b", 6, [8, 6, 4, 2]),
        ("1f1b", 3, [6, 6, 4, 2]),
        ("zero_bubble", 6, [8, 6, 4, 2]),
    ],
)
def test_micro_batches_in_flight(schedule: Any, m: int, layers: list[int]) -> None:
    layout = Layout(pipeline=4, schedule=schedule, global_batch=m)
    assert [in_flight(layout, 8, rank).layers for rank in range(4)] == layers
    waiting = [in_flight(layout, 8, rank).weight_chunks for rank in range(4)]
    assert waiting == ([0, 1, 2, 3] if schedule == "zero_bubble" else [0, 0, 0, 0])


@given(st.integers(2, 16), st.integers(2, 4))
def test_interleaving_keeps_more(p: int, v: int) -> None:
    layout = Layout(pipeline=p, interleave=v, global_batch=8 * p)
    layers = 2 * p * v
    # Korthikanti et al., section 4.2.3
    assert in_flight(layout, layers, 0).layers == pytest.approx(layers * (1 + (p - 1) / (p * v)))
    assert in_flight(layout, layers, 0).layers > in_flight(replace(layout, interleave=1), layers, 0).layers
    few = replace(layout, global_batch=1)
    assert in_flight(few, layers, 0).layers == layers / p


def test_without_a_pipeline_micro_batches_follow_each_other() -> None:
    for schedule in ("gpipe", "1f1b", "zero_bubble"):
        kept = in_flight(Layout(schedule=schedule, global_batch=9), 8, 0)
        assert (kept.layers, kept.batches, kept.weight_chunks) == (8, 1, 0)


@settings(max_examples=150, deadline=None)
@given(models, layouts(), all_settings)
def test_the_fullest_rank_is_found(model: Transformer, layout: Layout, chosen: MemorySettings) -> None:
    found = training_memory(model, layout, chosen)
    ranks = [training_memory(model, layout, chosen, rank).peak_bytes for rank in range(layout.pipeline)]
    assert found.peak_bytes == max(ranks) == ranks[found.rank]


def test_where_and_when_memory_peaks() -> None:
    def peak(model: Transformer, layout: Layout, chosen: MemorySettings) -> tuple[int, str, str]:
        memory = training_memory(model, layout, chosen)
        return memory.rank, memory.phase, memory.peak.name

    pipeline = Layout(pipeline=8, tensor=8, global_batch=64)
    assert peak(GPT_175B, pipeline, MEGATRON) == (0, "backward", "backward start")
    gpipe = replace(pipeline, schedule="gpipe")
    assert peak(GPT_175B, gpipe, MEGATRON)[0] == 7  # 64 micro-batches of softmax
    wide = replace(SMALL, vocabulary=100_000, sequence=1024, tied_embedding=False)
    assert peak(wide, Layout(), MemorySettings(loss="torch")) == (0, "backward", "loss backward")
    assert peak(wide, Layout(), MemorySettings(loss="torch", precision="fp32"))[1] == "backward"
    tiny = replace(GPT_22B, sequence=8)
    # A tied matrix has two gradients, and their sum, when no activations are left.
    assert peak(tiny, Layout(), MemorySettings())[2] == "embedding backward"
    many = Layout(micro_batch=2048, global_batch=2048)
    assert peak(tiny, many, MemorySettings())[2] != "embedding backward"
    assert peak(tiny, Layout(), MemorySettings(fused_optimizer=False))[1:] == ("optimizer", "optimizer")


# The whole


@settings(max_examples=100, deadline=None)
@given(models, layouts(), all_settings)
def test_rows_add_up(model: Transformer, layout: Layout, chosen: MemorySettings) -> None:
    memory = training_memory(model, layout, chosen)
    rows = memory.as_rows()
    numbers = [float(row["bytes"]) for row in rows]
    assert sum(numbers[:-1]) == pytest.approx(memory.peak_bytes)
    assert sum(numbers) == pytest.approx(memory.reserved_bytes)
    assert memory.peak_bytes == pytest.approx(memory.reserved_bytes * (1 - chosen.fragmentation))
    assert all(number > 0 and row["why"] for number, row in zip(numbers, rows, strict=True))
    assert {row["kind"] for row in rows[:-1]} <= {"states", "activations", "loss", "buffers"}


@settings(max_examples=100, deadline=None)
@given(models, layouts(), all_settings)
def test_monotone(model: Transformer, layout: Layout, chosen: MemorySettings) -> None:
    def peak(model: Transformer = model, chosen: MemorySettings = chosen, **change: Any) -> float:
        return training_memory(model, replace(layout, **change), chosen).peak_bytes

    def states(stage: int) -> float:
        held = rank_states(model, replace(layout, zero_stage=stage), chosen, 0)  # type: ignore[arg-type]
        return held.total_bytes

    assert peak(model=replace(model, layers=16)) > peak()
    assert peak(micro_batch=2 * layout.micro_batch, global_batch=2 * layout.global_batch) >= peak()
    assert peak(global_batch=2 * layout.global_batch) >= peak()
    assert peak(recompute="selective") <= peak(recompute="none") * (1 + 1e-12)
    assert (
        peak(chosen=replace(chosen, attention="scores"), recompute="none")
        >= peak(chosen=replace(chosen, attention="flash"), recompute="none") * 0.97
    )  # flash keeps a sum per query, which a sequence of 32 hardly pays back
    assert states(0) >= states(1) >= states(2) >= states(3)
    assert training_memory(model, layout, chosen).host_bytes >= 0


@settings(max_examples=50, deadline=None)
@given(models, layouts(), all_settings)
def test_one_rank_has_nothing_to_share(model: Transformer, layout: Layout, chosen: MemorySettings) -> None:
    alone = replace(layout, data=1, context=1, global_batch=layout.micro_batches * layout.micro_batch)
    # FSDP gathers 16-bit weights where autocast would cast: on one rank, too.
    stages: tuple[ZeroStage, ...] = (0, 1, 2) if chosen.precision == "autocast" else (0, 1, 2, 3)
    peaks = [training_memory(model, replace(alone, zero_stage=stage), chosen).peak_bytes for stage in stages]
    assert len(set(peaks)) == 1


def terms(memory: TrainingMemory, moment: str) -> dict[str, float]:
    return {term.name: term.bytes for term in memory.at(moment).terms}


def test_what_is_kept_beside_the_layers() -> None:
    """Of as many micro-batches as are in flight: the embedding's mask on the first rank, the loss on the last."""
    one = SMALL.sequence * SMALL.hidden
    dropout = MemorySettings(dropout=True)
    for change, masks in (({}, 4), ({"interleave": 2}, 2 * 4 - 1), ({"schedule": "gpipe"}, 16)):
        layout = replace(Layout(pipeline=4, global_batch=16), **change)
        first = training_memory(SMALL, layout, dropout, rank=0)
        assert terms(first, "forward end")["embedding's dropout mask"] == masks * one
        last = training_memory(SMALL, layout, dropout, rank=3)
        batches = 16 if change.get("schedule") else 1
        softmax = 4 * SMALL.sequence * SMALL.vocabulary
        assert terms(last, "forward end")["softmax of the logits"] == batches * softmax
        # In the layers' backward pass, this micro-batch's is done with.
        waiting = terms(last, "backward start").get("softmax of the logits", 0)
        assert waiting == (batches - 1) * softmax


def test_gradients_of_a_tied_matrix() -> None:
    one = 4 * SMALL.vocabulary * SMALL.hidden
    full = MemorySettings(precision="fp32")
    for m, at_the_end in ((1, 2), (2, 3)):
        memory = training_memory(SMALL, Layout(global_batch=m), full)
        assert terms(memory, "embedding backward")["tied matrix's gradients"] == at_the_end * one
        assert terms(memory, "backward start")["output layer's gradient"] == one
        assert ("output layer's gradient" in terms(memory, "backward end")) == (m > 1)
        untied = training_memory(replace(SMALL, tied_embedding=False), Layout(global_batch=m), full)
        assert ("output layer's gradient" in terms(untied, "backward start")) == (m == 1)
        assert "tied matrix's gradients" not in terms(untied, "embedding backward")
        buffered = training_memory(SMALL, Layout(global_batch=m), replace(full, gradient_buffers=True))
        assert "tied matrix's gradients" not in terms(buffered, "embedding backward")


def test_no_more_layers_are_gathered_than_there_are() -> None:
    layout = Layout(data=2, pipeline=8, global_batch=2, zero_stage=3)
    memory = training_memory(SMALL, layout, MemorySettings(prefetch=3), rank=3)
    assert terms(memory, "backward start")["gathered layers"] == 2 * SMALL.layer_parameters


def test_offloading_moves_and_loses_nothing() -> None:
    layout = Layout(data=4, global_batch=4, zero_stage=3)
    held = rank_states(LLAMA, layout, MemorySettings(), 0).total_bytes
    for offload in ("none", "optimizer", "all"):
        memory = training_memory(LLAMA, layout, MemorySettings(offload=offload))
        kept = sum(t.bytes for t in memory.at("embedding backward").terms if t.kind == "states")
        assert kept + memory.host_bytes == pytest.approx(held)
    assert kept == 0


def test_buffers_beside_the_states() -> None:
    layout = Layout(data=4, global_batch=4)
    copies = training_memory(LLAMA, layout, MemorySettings(bucket_copies=True))
    plain = training_memory(LLAMA, layout, MemorySettings())
    assert copies.peak_bytes - plain.peak_bytes == 2 * LLAMA.parameters
    sharded = training_memory(LLAMA, replace(layout, zero_stage=1), MemorySettings(bucket_copies=True))
    assert "buckets" not in terms(sharded, "optimizer")
    ring = training_memory(LLAMA, Layout(context=4), MemorySettings())
    assert terms(ring, "backward end")["ring attention"] == 2 * 2048 * 2 * 8 * 128
    deep = training_memory(LLAMA, replace(layout, recompute="full"), MemorySettings())
    layer = layer_activations(LLAMA, layout, MemorySettings())
    assert terms(deep, "backward end")["recomputed layer"] == layer.total - layer.inputs


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: MemorySettings(optimizer="adam"), "optimizer is 'adam'; it is one of adamw, sgd"),  # type: ignore[arg-type]
        (lambda: MemorySettings(precision="fp8"), "precision is 'fp8'"),  # type: ignore[arg-type]
        (lambda: MemorySettings(fragmentation=1), "fragmentation is 1; it is a share"),
        (lambda: MemorySettings(fragmentation=float("nan")), "fragmentation is nan"),
        (lambda: MemorySettings(prefetch=-1), "prefetch is -1"),
        (lambda: training_memory(LLAMA, Layout(), rank=1), "rank is 1; the pipeline has the ranks 0 to 0"),
        (lambda: training_memory(LLAMA, Layout(tensor=3)), "tensor is 3, which does not divide heads"),
        (
            lambda: training_memory(replace(LLAMA, kv_heads=8, heads=48, hidden=6144), Layout(tensor=16 * 3)),
            "does not divide|tensor is 48, which neither divides kv_heads, 8",
        ),
        (lambda: training_memory(LLAMA, Layout(), MemorySettings(offload="all")), "set zero_stage to 3"),
        (
            lambda: training_memory(
                LLAMA,
                Layout(data=2, global_batch=2, zero_stage=1),
                MemorySettings("adafactor"),
            ),
            "zero_stage is 1 with optimizer adafactor",
        ),
        (lambda: training_memory(LLAMA, Layout()).at("lunch"), "moments are forward end, loss backward"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        call()


def test_keys_of_few_heads_are_copied() -> None:
    model = replace(LLAMA, kv_heads=4)
    dense, _ = layer_weights(model, Layout(tensor=8))
    assert dense[1] == (128, 4096, 2)  # one head, on two ranks each
    with pytest.raises(SettingError, match="neither divides kv_heads, 4, of Llama 3 8B nor is a multiple"):
        layer_weights(replace(model, heads=36, hidden=36 * 128), Layout(tensor=6))
