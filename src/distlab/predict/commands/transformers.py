"""The transformer that is trained, its layout, and the program that trains it, as they were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlab.errors import SettingError
from distlab.predict.commands.options import Given
from distlab.predict.commands.presets import preset
from distlab.predict.commands.show import number
from distlab.predict.models import MODELS
from distlab.predict.transformer import Layout, Transformer

if TYPE_CHECKING:
    from distlab.predict.states import MemorySettings
    from distlab.predict.step_time import Software

MODELS_HELP = f"one of {', '.join(MODELS)}; the options below change it, or describe one of your own"


@dataclass(frozen=True)
class SoftwareOptions:
    """The fields of `step_time.Software` and of its `kernels.Kernels`."""

    fused_attention: bool = True
    gradient_bytes: int = 2
    overlap_gradients: bool = True
    overlap_tensor: bool = False
    data_s: float = 0.0


@dataclass(frozen=True)
class RunOptions:
    """Of the whole training."""

    tokens: float | None = None
    """To train on: gives days and, with a price, the cost."""


def the_model(given: Given) -> tuple[Transformer, str]:
    """The preset with what was given in place of its own, or one that is described wholly; and its source."""
    if "model" in given.names:
        known = preset(given.names["model"])
        changed = given.change("model", known.model)
        return changed, known.source + (", changed" if changed != known.model else "")
    if not given.values["model"]:
        raise SettingError(
            "model is missing; name one with --model (`distlab predict presets` lists them), or describe it in the "
            "file of --config."
        )
    given.values["model"].setdefault("name", "your own")
    return given.make("model", Transformer), "given"


def the_layout(given: Given) -> Layout:
    """Without a global batch: as many micro-batches as the pipeline has stages."""
    values = given.values["layout"]
    if "global_batch" not in values:
        factors = [values.get(name, 1) for name in ("data", "micro_batch", "pipeline")]
        values["global_batch"] = max(1, factors[0]) * max(1, factors[1]) * max(1, factors[2])
    return given.make("layout", Layout)


def the_settings(given: Given) -> MemorySettings:
    """Of one program: what of memory and of software is not given agrees with what is. SettingError where both are."""
    from distlab.predict.states import MemorySettings

    memory, software = given.values["settings"], given.values["software"]
    if software.get("fused_attention") is False:
        memory.setdefault("attention", "scores")
    if software.get("gradient_bytes") == 4:
        memory.setdefault("precision", "mixed_fp32_gradients")
    settings = given.make("settings", MemorySettings)
    software.setdefault("fused_attention", settings.attention == "flash")
    software.setdefault("gradient_bytes", settings.bytes.gradient)
    settings.agree(software["fused_attention"], software["gradient_bytes"])
    return settings


def the_software(given: Given) -> Software:
    from distlab.predict.kernels import Kernels
    from distlab.predict.step_time import Software

    asked = given.make("software", SoftwareOptions)
    if asked.gradient_bytes not in (2, 4):
        raise SettingError(f"gradient_bytes is {asked.gradient_bytes}; it is 2 or 4.")
    if asked.data_s < 0:
        raise SettingError(f"data_s is {asked.data_s}; it is 0 or more.")
    kernels = Kernels(asked.fused_attention, asked.gradient_bytes)
    return Software(kernels, asked.overlap_gradients, asked.overlap_tensor, asked.data_s)


def size_of(model: Transformer) -> str:
    """Its parameters in words, and those that a token meets where they are fewer."""
    active = f", {number(model.active_parameters / 1e9)}B active" if model.experts > 1 else ""
    return f"{number(model.parameters / 1e9)}B parameters{active}"
