"""Models that have a name at the command line.

Shapes of models are recalled from the papers named (R); those whose number of parameters is published to the last one
are held against it in `tests/predict/test_commands.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distlab.errors import SettingError, printable
from distlab.predict.transformer import Transformer


@dataclass(frozen=True)
class Preset:
    """A model, and who says that it looks so."""

    model: Transformer
    source: str


def _gpt(name: str, layers: int, hidden: int, heads: int, vocabulary: int, sequence: int) -> Transformer:
    return Transformer(name, layers, hidden, heads, vocabulary, sequence)


def _llama(
    name: str, layers: int, hidden: int, heads: int, width: int, vocabulary: int, sequence: int, kv: int
) -> Transformer:
    """SwiGLU, rotary positions, no biases, an output layer of its own."""
    return Transformer(
        name,
        layers,
        hidden,
        heads,
        vocabulary,
        sequence,
        kv_heads=kv,
        feed_forward=width,
        gated=True,
        tied_embedding=False,
        learned_positions=False,
        biases=False,
    )


def _mixtral(
    name: str, layers: int, hidden: int, heads: int, width: int, vocabulary: int, sequence: int
) -> Transformer:
    return Transformer(
        name,
        layers,
        hidden,
        heads,
        vocabulary,
        sequence,
        kv_heads=8,
        feed_forward=width,
        gated=True,
        experts=8,
        active_experts=2,
        tied_embedding=False,
        learned_positions=False,
        biases=False,
    )


_GPT2 = "Radford et al., 2019, table 2 (R)"
_MEGATRON = "Narayanan et al., SC'21, table 1, and Korthikanti et al., 2022, table 3 (V)"
_LLAMA2 = "Touvron et al., 2023, Llama 2 (R)"
_LLAMA3 = "Grattafiori et al., 2024, table 3 (R); sequence of pre-training"
_MISTRAL = "Jiang et al., 2024, Mixtral of Experts, table 1 (R)"

MODELS: dict[str, Preset] = {
    "gpt2": Preset(_gpt("GPT-2 124M", 12, 768, 12, 50257, 1024), _GPT2),
    "gpt2-medium": Preset(_gpt("GPT-2 355M", 24, 1024, 16, 50257, 1024), _GPT2),
    "gpt2-large": Preset(_gpt("GPT-2 774M", 36, 1280, 20, 50257, 1024), _GPT2),
    "gpt2-xl": Preset(_gpt("GPT-2 1.5B", 48, 1600, 25, 50257, 1024), _GPT2),
    "gpt-22b": Preset(_gpt("GPT 22B", 48, 6144, 64, 51200, 2048), _MEGATRON),
    "gpt-175b": Preset(_gpt("GPT 175B", 96, 12288, 96, 51200, 2048), _MEGATRON),
    "gpt-530b": Preset(_gpt("MT-NLG 530B", 105, 20480, 128, 51200, 2048), _MEGATRON),
    "gpt-1t": Preset(_gpt("GPT 1T", 128, 25600, 160, 51200, 2048), "Narayanan et al., SC'21, table 1 (R)"),
    "llama2-7b": Preset(_llama("Llama 2 7B", 32, 4096, 32, 11008, 32000, 4096, 32), _LLAMA2),
    "llama2-13b": Preset(_llama("Llama 2 13B", 40, 5120, 40, 13824, 32000, 4096, 40), _LLAMA2),
    "llama2-70b": Preset(_llama("Llama 2 70B", 80, 8192, 64, 28672, 32000, 4096, 8), _LLAMA2),
    "llama3-8b": Preset(_llama("Llama 3 8B", 32, 4096, 32, 14336, 128256, 8192, 8), _LLAMA3),
    "llama3-70b": Preset(_llama("Llama 3 70B", 80, 8192, 64, 28672, 128256, 8192, 8), _LLAMA3),
    "llama3-405b": Preset(_llama("Llama 3 405B", 126, 16384, 128, 53248, 128256, 8192, 8), _LLAMA3),
    "mixtral-8x7b": Preset(_mixtral("Mixtral 8x7B", 32, 4096, 32, 14336, 32000, 32768), _MISTRAL),
    "mixtral-8x22b": Preset(
        _mixtral("Mixtral 8x22B", 56, 6144, 48, 16384, 32768, 65536), "Mistral AI's model card, 2024 (R)"
    ),
}


def preset(name: str) -> Preset:
    """The model called so; SettingError names the nearest."""
    if not isinstance(name, str) or name.lower().replace("_", "-") not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name.lower().replace("_", "-")]


def unknown(field: str, value: object, known: Iterable[str]) -> SettingError:
    """What to raise for a name that is none: the nearest, and all others."""
    import difflib  # only for a message

    names = list(known)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    text = printable(str(value)[:80])
    return SettingError(f"{field} is {text!r}; {hint}It is one of {', '.join(names)}.")
