"""What runs cost: the table of prices, the arithmetic, and a command that says the same as the exporter."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.cli import main
from distlab.errors import SettingError
from distlab.observe.account import Account
from distlab.observe.bill import Bill
from distlab.observe.cost import Budgets, account_of, cost, read_budgets, show
from distlab.observe.exposition import Page
from distlab.observe.runs import Run
from distlab.observe.sample import GpuProcess, GpuSample, Reading
from distlab.predict.hardware.prices import PRICES, PriceTable, read_prices
from tests.observe.made_runs import MadeRun, write_info, write_lines

PRICE = 3.6
"""An hour, so that a rank's second costs a thousandth."""


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    made = MadeRun(now=time.time() - 100)
    made.attempt(0, 7, flush_after={3})
    made.attempt(4, 8, down_s=10, flush_after={7})
    write_info(tmp_path / "demo")
    write_lines(tmp_path / "demo", made.kept)
    return tmp_path / "demo"


def as_json(capsys: pytest.CaptureFixture[str], folder: Path, **options: Any) -> list[dict[str, Any]]:
    show((str(folder),), json=True, **options)
    values: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return values


# --- Prices ---


def test_the_table_has_a_source_and_a_date_for_each_price() -> None:
    table = read_prices()
    assert {price.provider for price in table.prices} >= {
        "aws",
        "azure",
        "gcp",
        "lambda",
        "runpod",
        "coreweave",
    }
    assert len({price.accelerator for price in table.prices}) >= 10
    for price in table.prices:
        assert price.source.startswith("https://"), price
        assert 0.1 < price.per_hour < 20, price
        assert price.date <= time.strftime("%Y-%m-%d"), price
        assert price.fits(price.accelerator), price


@pytest.mark.parametrize(
    ("name", "accelerator"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("NVIDIA H100 NVL", "H100 NVL 94GB"),
        ("NVIDIA H200", "H200 SXM 141GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA A10", "A10 24GB"),
        ("NVIDIA A10G", "A10G 24GB"),
        ("NVIDIA L4", "L4 24GB"),
        ("NVIDIA L40S", "L40S 48GB"),
        ("Tesla T4", "T4 16GB"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2 16GB"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090 24GB"),
        ("SIMULATED H100 80GB", "H100 SXM 80GB"),
        ("NVIDIA GB200", None),
        ("AMD EPYC", None),
    ],
)
def test_a_gpu_has_the_price_of_its_kind(name: str, accelerator: str | None) -> None:
    found = read_prices().find(name)
    assert (found.accelerator if found else None) == accelerator


def test_a_provider_has_its_own_price() -> None:
    table = read_prices()
    prices = {name: table.of(name).find("NVIDIA H100 80GB HBM3") for name in ("aws", "lambda", "azure")}
    assert len({price.per_hour for price in prices.values() if price}) == 3
    with pytest.raises(
        SettingError, match=r"no price of the provider 'nobody'; there are aws, azure, .*runpod"
    ):
        table.of("nobody")


def _drop_source(row: dict[str, Any]) -> None:
    del row["source"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_drop_source, "row 1 has not exactly"),
        (lambda row: row.update(per_hour=-1), "row 1 has the price -1"),
        (lambda row: row.update(per_hour="3"), "row 1 has the price '3'"),
        (lambda row: row.update(per_hour=True), "row 1 has the price True"),
        (lambda row: row.update(date="last week"), "row 1 has the date 'last week'"),
        (lambda row: row.update(date=["2026-11-29"]), r"row 1 has the date \['2026-11-29'\]"),
        (lambda row: row.update(confidence="certain"), "row 1 has the confidence 'certain'"),
        (lambda row: row.update(matches="H100"), "row 1 has a text"),
        (lambda row: row.update(unit=""), "row 1 has a text"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], sentence: str) -> None:
    row: dict[str, Any] = {
        "accelerator": "H100",
        "matches": ["H100"],
        "provider": "us",
        "per_hour": 2,
        "unit": "a GPU",
        "source": "our contract",
        "date": "2026-11-29",
        "confidence": "V",
    }
    path = tmp_path / "prices.yml"
    path.write_text(json.dumps({"currency": "EUR", "prices": [row]}))
    assert read_prices(path).currency == "EUR"
    spoil(row)
    path.write_text(json.dumps({"currency": "EUR", "prices": [row]}))
    with pytest.raises(SettingError, match=sentence):
        read_prices(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "currency: [",
        "currency: usd\nprices: [1]",
        "currency: USD\nprices: []",
        "\0",
        "a: " + "[" * 5000,
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.yml"
    path.write_text(text)
    with pytest.raises(SettingError, match="is not a table of prices"):
        read_prices(path)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Cannot read the prices"):
        read_prices(tmp_path / "none.yml")


# --- Arithmetic ---


def test_a_run_by_hand(demo: Path) -> None:
    account = account_of(str(demo))
    one = cost("demo", account, PRICE, "USD")
    assert one.spend == pytest.approx(account.paid_s / 1000)
    assert one.wasted == pytest.approx(
        {"idle": 2 * 2.8e-3, "failure": account.failure_s / 1000, "straggler": 0}
    )
    assert one.per_step == pytest.approx(one.spend / 8)
    assert one.per_million_tokens == pytest.approx(one.spend / (8 * 160) * 1e6)
    assert one.per_epoch == pytest.approx(account.epochs_paid_s / 1000)
    assert one.goodput == pytest.approx(16 / account.paid_s)
    assert one.useful + sum(one.wasted.values()) == pytest.approx(one.spend)


@given(st.floats(1e-3, 1e3), st.integers(1, 20), st.floats(0, 100))
def test_cost_is_proportional_to_the_price(per_hour: float, steps: int, start_s: float) -> None:
    made = MadeRun()
    made.attempt(0, steps, start_s=start_s, flush_after={steps - 1})
    account = Account()
    for line in made.kept:
        account.add(line)
    account.settle(finished=True)
    one, other = cost("a", account, per_hour, "USD"), cost("a", account, 2 * per_hour, "USD")
    assert other.spend == pytest.approx(2 * one.spend)
    assert other.wasted == pytest.approx({reason: 2 * amount for reason, amount in one.wasted.items()})
    assert one.spend == pytest.approx(per_hour / 3600 * account.paid_s)
    assert sum(one.wasted.values()) <= one.spend * (1 + 1e-9)


def test_budgets() -> None:
    assert read_budgets(()).of("demo") is None
    budgets = read_budgets(("50", "demo=2.5"))
    assert (budgets.of("demo"), budgets.of("other")) == (2.5, 50)
    assert read_budgets(("a=b=3",)).of("a=b") == 3


@pytest.mark.parametrize("text", ["", "none", "demo=", "=5", "-1", "demo=nan", "inf", "0"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(SettingError, match="no amount above 0; write 50, or NAME=50"):
        read_budgets((text,))


# --- GPUs that no run has ---


def gpu(number: int, processes: int | None, utilization: float | None, name: str = "NVIDIA T4") -> GpuSample:
    present = (
        None
        if processes is None
        else tuple(GpuProcess(pid=i, name="p", memory_bytes=1) for i in range(processes))
    )
    return GpuSample(
        time=0.0,
        gpu=number,
        uuid=f"GPU-{number}",
        name=name,
        tier="gpu",
        processes=present,
        utilization_percent=utilization,
    )


def spent(bill: Bill) -> tuple[float, float]:
    page = Page()
    bill.write(page, [])
    lines = page.render().decode().splitlines()
    values = [float(line.split()[-1]) for line in lines if line.startswith("distlab")]
    return (values[0], values[1]) if values else (0.0, 0.0)


def table(per_hour: float = 3600.0) -> PriceTable:
    row = read_prices().prices[0]
    return PriceTable("USD", (type(row)(**vars(row) | {"matches": ("T4",), "per_hour": per_hour}),))


@pytest.mark.parametrize(
    ("processes", "utilization", "idle"),
    [
        (0, 0.0, 10),
        (0, 90.0, 10),
        (1, 1.0, 10),
        (1, 90.0, 0),
        (None, 1.0, 10),
        (None, 90.0, 0),
        (None, None, 0),
    ],
)
def test_gpus_that_no_run_has(processes: int | None, utilization: float | None, idle: float) -> None:
    bill = Bill(table(), Budgets())
    bill.take(Reading((gpu(0, processes, utilization),)), {}, 10.0)
    assert spent(bill) == pytest.approx((10, idle))


def test_a_gpu_without_a_price_is_not_free_but_unknown() -> None:
    bill = Bill(table(), Budgets())
    bill.take(Reading((gpu(0, 0, 0.0, "NVIDIA X1"),)), {}, 10.0)
    assert bill.unpriced == {"NVIDIA X1"}
    assert spent(bill) == (0.0, 0.0)


def test_a_gpu_of_a_run_that_failed_is_held_for_it(demo: Path) -> None:
    run = Run(demo)
    write_info(demo, steps=100)  # it ended before its goal
    run.poll(time.time())
    reading = Reading((gpu(0, 0, 0.0),))
    bill = Bill(table(), Budgets())
    bill.take(reading, {"GPU-0": run}, 1.0)
    bill.take(reading, {}, 60.0)
    assert spent(bill) == (0, 0), "the run may go on, and then this was its failure"
    bill.take(reading, {"GPU-0": run}, 1.0)
    bill.take(reading, {}, 599.0)
    assert spent(bill) == (0, 0)
    bill.take(reading, {}, 10.0)
    assert spent(bill) == pytest.approx((609, 609)), "it did not go on"
    bill.take(reading, {}, 10.0)
    assert spent(bill) == pytest.approx((619, 619))


# --- The command ---


def test_the_command_and_the_exporter_agree(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [told] = as_json(capsys, demo, accelerator="H100 80GB", provider="lambda", budget=("2",))
    run = Run(demo)
    run.poll(time.time())
    bill = Bill(read_prices().of("lambda"), Budgets(2.0))
    bill.take(Reading((gpu(0, 1, 90.0, "SIMULATED H100 80GB"),)), {"GPU-0": run}, 1.0)
    page = Page()
    bill.write(page, [run])
    exported = {
        line.partition("{")[0]
        + (("reason" in line and line.split('reason="')[1].split('"')[0]) or ""): float(line.split()[-1])
        for line in page.render().decode().splitlines()
        if line.startswith("distlab")
    }
    assert exported == pytest.approx(
        {
            "distlab_cost_spend_total": told["spend"],
            **{f"distlab_cost_wasted_total{reason}": amount for reason, amount in told["wasted"].items()},
            "distlab_cost_per_step": told["per_step"],
            "distlab_cost_per_million_tokens": told["per_million_tokens"],
            "distlab_cost_per_epoch": told["per_epoch"],
            "distlab_cost_budget": 2.0,
            "distlab_cost_price_per_hour": 3.99,
        }
    )
    assert f'basis="as if on {told["price_source"]}"' in page.render().decode()
    assert told["per_gpu_hour"] == 3.99
    assert (told["tier"], told["hardware"]) == ("cpu", "A processor"), "wherever it is priced"
    assert told["price_source"] == (
        "H100 SXM 80GB at lambda (a GPU of 8), https://lambda.ai/pricing, 2026-09-25, confidence S"
    )
    assert (told["currency"], told["run"]) == ("USD", "demo")


def test_a_price_of_the_runs_own_or_of_the_command(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        SettingError, match=r"demo ran on A processor, which has no price; give --price-per-hour"
    ):
        show((str(demo),))
    info = json.loads((demo / "log/run.json").read_text())
    info["config"]["log"]["price_per_hour"] = PRICE
    (demo / "log/run.json").write_text(json.dumps(info))
    [own] = as_json(capsys, demo)
    [given] = as_json(capsys, demo, price_per_hour=2 * PRICE)
    assert own["per_gpu_hour"] == PRICE
    assert given["spend"] == pytest.approx(2 * own["spend"])


def test_a_gpu_run_has_the_price_of_its_gpu(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_info(demo, stamp={"tier": "gpu", "hardware": "NVIDIA H200"})
    [told] = as_json(capsys, demo, provider="nebius")
    assert told["per_gpu_hour"] == 4.5


def test_the_table_of_a_terminal(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show((str(demo), str(demo)), price_per_hour=PRICE, budget=("1",)) == 0
    text = capsys.readouterr().out
    for word in (
        "spend",
        "idle",
        "failure",
        "straggler",
        "a million tokens",
        "goodput",
        "of the budget",
        "USD",
        "Price: --price-per-hour.",
        "the time before it is opened (starting the ranks,",
    ):
        assert word in text
    assert "as if" not in text


def test_a_price_of_another_gpu_is_said_to_be_one(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show((str(demo),), accelerator="A100 80GB", provider="lambda") == 0
    text = capsys.readouterr().out
    assert re.search(r"ran on +│ A processor \(cpu\)", text)
    assert re.search(r"priced as if on +│ A100 SXM 80GB", text)
    assert "Price: A100 SXM 80GB at lambda (a GPU of 8), https://lambda.ai/pricing, 2026-09-25," in text
    write_info(demo, stamp={"tier": "gpu", "hardware": "NVIDIA H200"})
    [told] = as_json(capsys, demo, accelerator="H200")
    assert told["as_if_on"] is None
    [told] = as_json(capsys, demo, accelerator="H100")
    assert told["as_if_on"] == "H100 SXM 80GB"


@pytest.mark.parametrize(
    ("text", "accelerator"),
    [
        ("A100 80GB", "A100 SXM 80GB"),
        ("a100 40gb", "A100 SXM 40GB"),
        ("H100", "H100 SXM 80GB"),
        ("RTX 4090", "GeForce RTX 4090 24GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("80", None),
        ("", None),
    ],
)
def test_a_gpu_can_be_called_by_words_of_its_name(text: str, accelerator: str | None) -> None:
    found = read_prices().named(text)
    assert (found and found.accelerator) == accelerator


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "No run is named"),
        (["{demo}", "--accelerator", "H9"], "no price for the accelerator 'H9'; there are H100 SXM 80GB"),
        (["{demo}", "--accelerator", "A100 SXM 60GB"], "the nearest is 'A100 SXM"),
        (["{demo}", "--price-per-hour", "-1"], "must be above 0"),
        (["{demo}", "--provider", "nobody"], "no price of the provider"),
        (["{demo}", "--prices", "nowhere.yml"], "Cannot read the prices"),
        (["{demo}", "--budget", "much"], "no amount above 0"),
        (["{demo}/nothing"], "holds no log of a step"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    demo: Path, capsys: pytest.CaptureFixture[str], args: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["observe", "cost", *(arg.format(demo=demo) for arg in args)])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_distlab_s_table_is_where_the_message_says() -> None:
    assert PRICES.name == "prices.yml"
    assert PRICES.is_file()
