"""Models that have a name: `distlab predict presets` lists them, and published cases are of some.

    MODELS["gpt-22b"].model

Shapes are those of the papers and model cards named, with the registry's letter for how they were checked: V read, S
from a secondary page, R recalled. Where the number of parameters is published to the last one, it is here, too, and
the shape must give it (`tests/predict/test_presets.py`).

Absent: models that `Transformer` cannot describe to the last parameter, such as DeepSeek-V2 and V3 (latent attention,
shared experts), Qwen (biases of queries, keys and values alone) and PaLM (parallel layers with one norm).
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.predict.transformer import Transformer


@dataclass(frozen=True)
class Preset:
    """A model, and who says that it looks so."""

    model: Transformer
    source: str
    published: int | None = None
    """Its number of parameters, as its weights add up."""
    beside: int = 0
    """Of them, those that `Transformer` has no place for."""

    @property
    def confidence(self) -> str:
        """The letter of the source."""
        return next(letter for letter in "VSCR" if f"({letter})" in self.source)


def _gpt(name: str, layers: int, hidden: int, heads: int, vocabulary: int, sequence: int) -> Transformer:
    return Transformer(name, layers, hidden, heads, vocabulary, sequence)


def _llama(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    width: int,
    vocabulary: int,
    sequence: int,
    kv: int,
    *,
    tied: bool = False,
    head_size: int | None = None,
    experts: tuple[int, int] = (1, 1),
) -> Transformer:
    """Gated MLP, rotary positions, no biases. experts: all of a layer, and those that a token visits."""
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
        experts=experts[0],
        active_experts=experts[1],
        tied_embedding=tied,
        learned_positions=False,
        biases=False,
        head_size=head_size,
    )


_GPT2 = "Radford et al., 2019, table 2, as in nanoGPT (S)"
_GPT3 = "Brown et al., 2020, table 2.1 (R)"
_MEGATRON = "Narayanan et al., SC'21, table 1, and Korthikanti et al., 2022, table 3 (V)"
_LLAMA = "Touvron et al., 2023, LLaMA, table 2 (S)"
_LLAMA2 = "Touvron et al., 2023, Llama 2 (S)"
_LLAMA3 = "meta-llama/llama-models, models/sku_list.py (V); sequence of pre-training (R)"
_LLAMA32 = "Meta's model card of Llama 3.2, 2024 (S); sequence as Llama 3's"
_MISTRAL = "Jiang et al., 2024, Mixtral of Experts, table 1, and copies of its config.json (S)"
_GEMMA = "Gemma Team, 2024, table 1 (S)"

MODELS: dict[str, Preset] = {
    "gpt2": Preset(_gpt("GPT-2 124M", 12, 768, 12, 50257, 1024), _GPT2, 124_439_808),
    "gpt2-medium": Preset(_gpt("GPT-2 355M", 24, 1024, 16, 50257, 1024), _GPT2, 354_823_168),
    "gpt2-large": Preset(_gpt("GPT-2 774M", 36, 1280, 20, 50257, 1024), _GPT2, 774_030_080),
    "gpt2-xl": Preset(_gpt("GPT-2 1.5B", 48, 1600, 25, 50257, 1024), _GPT2, 1_557_611_200),
    "gpt3-2.7b": Preset(_gpt("GPT-3 2.7B", 32, 2560, 32, 50257, 2048), _GPT3),
    "gpt3-6.7b": Preset(_gpt("GPT-3 6.7B", 32, 4096, 32, 50257, 2048), _GPT3),
    "gpt3-175b": Preset(_gpt("GPT-3 175B", 96, 12288, 96, 50257, 2048), _GPT3),
    "gpt-22b": Preset(_gpt("GPT 22B", 48, 6144, 64, 51200, 2048), _MEGATRON),
    "gpt-175b": Preset(_gpt("GPT 175B", 96, 12288, 96, 51200, 2048), _MEGATRON),
    "gpt-530b": Preset(_gpt("MT-NLG 530B", 105, 20480, 128, 51200, 2048), _MEGATRON),
    "gpt-1t": Preset(_gpt("GPT 1T", 128, 25600, 160, 51200, 2048), "Narayanan et al., SC'21, table 1 (R)"),
    "gpt-neox-20b": Preset(
        Transformer("GPT-NeoX 20B", 44, 6144, 64, 50432, 2048, tied_embedding=False, learned_positions=False),
        "EleutherAI's model card (S)",
        20_554_567_680,
    ),
    "bloom-176b": Preset(
        Transformer("BLOOM 176B", 70, 14336, 112, 250880, 2048, learned_positions=False),
        "BigScience's model card (V); the norm of its embedding is left out",
        176_247_271_424,
        2 * 14336,
    ),
    "llama-7b": Preset(_llama("LLaMA 7B", 32, 4096, 32, 11008, 32000, 2048, 32), _LLAMA, 6_738_415_616),
    "llama-65b": Preset(_llama("LLaMA 65B", 80, 8192, 64, 22016, 32000, 2048, 64), _LLAMA, 65_285_660_672),
    "llama2-7b": Preset(_llama("Llama 2 7B", 32, 4096, 32, 11008, 32000, 4096, 32), _LLAMA2, 6_738_415_616),
    "llama2-13b": Preset(
        _llama("Llama 2 13B", 40, 5120, 40, 13824, 32000, 4096, 40), _LLAMA2, 13_015_864_320
    ),
    "llama2-70b": Preset(_llama("Llama 2 70B", 80, 8192, 64, 28672, 32000, 4096, 8), _LLAMA2, 68_976_648_192),
    "llama3-8b": Preset(_llama("Llama 3 8B", 32, 4096, 32, 14336, 128256, 8192, 8), _LLAMA3, 8_030_261_248),
    "llama3-70b": Preset(
        _llama("Llama 3 70B", 80, 8192, 64, 28672, 128256, 8192, 8), _LLAMA3, 70_553_706_496
    ),
    "llama3-405b": Preset(
        _llama("Llama 3 405B", 126, 16384, 128, 53248, 128256, 8192, 8), _LLAMA3, 405_853_388_800
    ),
    "llama3.2-1b": Preset(
        _llama("Llama 3.2 1B", 16, 2048, 32, 8192, 128256, 8192, 8, tied=True), _LLAMA32, 1_235_814_400
    ),
    "llama3.2-3b": Preset(
        _llama("Llama 3.2 3B", 28, 3072, 24, 8192, 128256, 8192, 8, tied=True), _LLAMA32, 3_212_749_824
    ),
    "gemma-2b": Preset(
        _llama("Gemma 2B", 18, 2048, 8, 16384, 256000, 8192, 1, tied=True, head_size=256),
        _GEMMA,
        2_506_172_416,
    ),
    "gemma-7b": Preset(
        _llama("Gemma 7B", 28, 3072, 16, 24576, 256000, 8192, 16, tied=True, head_size=256),
        _GEMMA,
        8_537_680_896,
    ),
    "mistral-7b": Preset(
        _llama("Mistral 7B", 32, 4096, 32, 14336, 32000, 8192, 8),
        "Jiang et al., 2023, Mistral 7B, table 1 (S); its window of 4,096 tokens is not modelled",
        7_241_732_096,
    ),
    "mixtral-8x7b": Preset(
        _llama("Mixtral 8x7B", 32, 4096, 32, 14336, 32000, 32768, 8, experts=(8, 2)), _MISTRAL, 46_702_792_704
    ),
    "mixtral-8x22b": Preset(
        _llama("Mixtral 8x22B", 56, 6144, 48, 16384, 32768, 65536, 8, experts=(8, 2)),
        "Mistral AI's model card, 2024 (R)",
        140_630_071_296,
    ),
    "dbrx": Preset(
        _llama("DBRX 132B", 40, 6144, 48, 10752, 100352, 32768, 8, experts=(16, 4)),
        "Databricks' configuration of the model, 2024 (S)",
    ),
}
