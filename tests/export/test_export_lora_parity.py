"""Adapters merged at export against diffusers' load_lora_weights and fuse_lora, and against peft."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")
safetensors_torch = pytest.importorskip("safetensors.torch")

import transformers  # noqa: E402
from export_parity import randomise  # noqa: E402

from edgediff.export.lora.file import read_adapter  # noqa: E402
from edgediff.export.lora.source import AdaptedSource  # noqa: E402
from edgediff.export.original.names import unet_names  # noqa: E402
from edgediff.export.sources import open_source  # noqa: E402
from tests import tiny  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 2e-6
SCALE = 0.7
Tensors = dict[str, Any]
Namer = Callable[[str, str, str], str]  # component, module, "down" or "up" -> the tensor's name


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classic")
    tiny.pipeline(folder, diffusers.DDIMScheduler(steps_offset=1, clip_sample=False))
    return folder


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's shape, narrow: three levels, transformers of depth 1 and 2, two text encoders."""
    folder = tmp_path_factory.mktemp("xl")
    vocab, _ = tiny.vocabulary()
    words = transformers.CLIPTokenizer.from_pretrained(str(tiny.write_tokenizer(folder / "words")))
    config = {
        "vocab_size": len(vocab), "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": tiny.LENGTH, "eos_token_id": vocab[tiny.END],
        "bos_token_id": vocab[tiny.START],
    }  # fmt: skip
    one = transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=8, **config))
    two = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(hidden_size=12, projection_dim=12, **config)
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 24), layers_per_block=2, norm_num_groups=4,
        attention_head_dim=(1, 2, 3), cross_attention_dim=20, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2), addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 12,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae, text_encoder=randomise(one), text_encoder_2=randomise(two, 1), tokenizer=words,
        tokenizer_2=words, unet=randomise(unet), scheduler=diffusers.DDIMScheduler(), add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def layers(pipe: Any, component: str) -> Iterator[tuple[str, Any]]:
    """The linear and convolutional modules of a component, embeddings' and the last one left out."""
    for name, module in getattr(pipe, component).named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            yield name, module


def factors(module: Any, rank: int, draw: Any) -> tuple[Any, Any]:
    """Random ``down`` and ``up`` for a module, as trainers shape them."""
    if isinstance(module, torch.nn.Linear):
        return draw(rank, module.in_features), draw(module.out_features, rank)
    kernel = module.kernel_size
    return draw(rank, module.in_channels, *kernel), draw(module.out_channels, rank, 1, 1)


def drawing(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: 0.3 * torch.randn(shape, generator=generator)


def fused(pipe: Any, component: str) -> Tensors:
    """The weights of a component after fuse_lora, by their usual names."""
    found = getattr(pipe, component).state_dict()
    return {name.replace(".base_layer", ""): held for name, held in found.items() if ".lora_" not in name}


def compare(folder: Path, adapters: list[tuple[Path, float]], pipe: Any, *components: str) -> int:
    """Compare every tensor of some components with the fused ones; how many were changed."""
    source = AdaptedSource(open_source(str(folder)), [read_adapter(path, scale) for path, scale in adapters])
    plain, changed = open_source(str(folder)), 0
    for component in components:
        classes = (str(source.class_of(component)),)
        ours, before = (s.component(component, classes).tensors for s in (source, plain))
        wanted = fused(pipe, component)
        for name in ours.entries:
            found, expected = ours.whole(name), wanted[name].detach().float().numpy()
            runs = np.concatenate(list(ours.rows(name, 100))).reshape(found.shape)
            assert np.abs(runs - found).max() <= 1e-6
            assert np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max()), name
            changed += not np.array_equal(found, before.whole(name))
    source.finish()
    return changed


def load(folder: Path) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def new_text(module: str) -> str:
    return f"text_model.{module}" if not module.startswith("text_model.") else module


def diffusers_new(component: str, module: str, part: str) -> str:
    return f"{component}.{module}.lora_{'A' if part == 'down' else 'B'}.weight"


def diffusers_middle(component: str, module: str, part: str) -> str:
    if component == "unet":
        return f"{component}.{module}.lora.{part}.weight"
    return f"{component}.{new_text(module)}.lora_linear_layer.{part}.weight"


def diffusers_old(component: str, module: str, part: str) -> str:
    head, _, last = module.rpartition(".attn1.") if ".attn1." in module else module.rpartition(".attn2.")
    if component == "unet":
        attention = module[len(head) + 1 : len(head) + 6]
        return f"unet.{head}.{attention}.processor.{last.removesuffix('.0')}_lora.{part}.weight"
    layer, _, name = new_text(module).rpartition(".")
    return f"{component}.{layer}.{'to_' + name.removesuffix('_proj')}_lora.{part}.weight"


def kohya(component: str, module: str, part: str) -> str:
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}[component]
    name = module if component == "unet" else new_text(module)
    return f"{prefix}_{name.replace('.', '_')}.lora_{part}.weight"


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
FULL = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "fc1", "fc2")
LOCON = (*FULL, "conv1", "conv2", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv")
NAMINGS: dict[str, tuple[Namer, tuple[str, ...]]] = {
    "diffusers, lora_A": (diffusers_new, FULL),
    "diffusers, lora.down": (diffusers_middle, FULL),
    "diffusers, processors": (diffusers_old, ATTENTION),
    "kohya": (kohya, FULL),
    "kohya, convolutions": (kohya, LOCON),
}


def written(file: Path, pipe: Any, components: tuple[str, ...], name: Namer, ends: tuple[str, ...]) -> int:
    """Write random factors for all modules with such ends; how many modules those are."""
    tensors, draw, count = Tensors(), drawing(len(ends)), 0
    for component in components:
        for module, layer in layers(pipe, component):
            if module.endswith(ends):
                down, up = factors(layer, 2 + count % 2, draw)
                tensors |= {name(component, module, "down"): down, name(component, module, "up"): up}
                if (key := name(component, module, "down")).startswith("lora_"):
                    tensors[key.split(".")[0] + ".alpha"] = torch.tensor(1.5)
                count += 1
    safetensors_torch.save_file(tensors, file)
    return count


@pytest.mark.parametrize("naming", NAMINGS)
def test_classic(naming: str, classic: Path, tmp_path: Path) -> None:
    name, ends = NAMINGS[naming]
    pipe, file = load(classic), tmp_path / "lora.safetensors"
    count = written(file, pipe, ("unet", "text_encoder"), name, ends)
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    pipe.fuse_lora(lora_scale=SCALE)
    assert compare(classic, [(file, SCALE)], pipe, "unet", "text_encoder") == count > 30


SDXL_TEXT = ("text_encoder", "text_encoder_2")


@pytest.mark.parametrize("naming", ["diffusers, lora_A", "kohya, convolutions"])
def test_xl(naming: str, xl: Path, tmp_path: Path) -> None:
    name, ends = NAMINGS[naming]
    pipe, file = load(xl), tmp_path / "lora.safetensors"
    count = written(file, pipe, ("unet", *SDXL_TEXT), name, ends)
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    pipe.fuse_lora(["unet", *SDXL_TEXT], lora_scale=SCALE)
    assert compare(xl, [(file, SCALE)], pipe, "unet", *SDXL_TEXT) == count > 100


def test_xl_in_the_original_layout(xl: Path, tmp_path: Path) -> None:
    """kohya trains SDXL on Stability's own network, whose blocks are counted through."""
    pipe, file = load(xl), tmp_path / "lora.safetensors"
    originals = {new: old for old, new in unet_names(dict(pipe.unet.config)).items()}

    def name(component: str, module: str, part: str) -> str:
        return kohya(component, originals[module] if component == "unet" else module, part)

    count = written(file, pipe, ("unet", *SDXL_TEXT), name, (*LOCON, "upsamplers.0.conv"))
    assert any("input_blocks" in key for key in safetensors_torch.load_file(file))
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    pipe.fuse_lora(["unet", *SDXL_TEXT], lora_scale=-SCALE)
    assert compare(xl, [(file, -SCALE)], pipe, "unet", *SDXL_TEXT) == count > 100


def test_two_adapters(classic: Path, tmp_path: Path) -> None:
    pipe, files = load(classic), [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    written(files[0], pipe, ("unet",), kohya, FULL)
    written(files[1], pipe, ("unet",), diffusers_new, ATTENTION)
    for file in files:
        pipe.load_lora_weights(tmp_path, weight_name=file.name, adapter_name=file.stem)
    pipe.set_adapters(["a", "b"], adapter_weights=[0.5, 0.25])
    pipe.fuse_lora(["unet"], adapter_names=["a", "b"])
    compare(classic, [(files[0], 0.5), (files[1], 0.25)], pipe, "unet")


def test_what_diffusers_saves(classic: Path, tmp_path: Path) -> None:
    """save_lora_weights writes peft's configuration, alpha among it, into the metadata."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = load(classic)
    config = {"r": 4, "lora_alpha": 6, "init_lora_weights": False}
    pipe.unet.add_adapter(
        LoraConfig(
            target_modules=["to_q", "to_out.0"], alpha_pattern={"mid_block": 1}, use_rslora=True, **config
        )
    )
    pipe.text_encoder.add_adapter(LoraConfig(target_modules=["q_proj", "fc1"], **config))
    states = {c: get_peft_model_state_dict(getattr(pipe, c)) for c in ("unet", "text_encoder")}
    type(pipe).save_lora_weights(
        tmp_path,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=convert_state_dict_to_diffusers(states["text_encoder"]),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=pipe.text_encoder.peft_config["default"].to_dict(),
    )
    pipe = load(classic)
    pipe.load_lora_weights(tmp_path)
    pipe.fuse_lora(lora_scale=SCALE)
    assert compare(classic, [(tmp_path, SCALE)], pipe, "unet", "text_encoder") > 10


@pytest.mark.parametrize(
    "kind", ["lora", "rslora", "patterns", "dora", "bias", "loha", "lokr", "lokr, whole"]
)
def test_what_peft_saves(kind: str, classic: Path, tmp_path: Path) -> None:
    import peft

    pipe = load(classic)
    targets = {"target_modules": ["to_q", "proj_in", "conv1"]}
    lora = {**targets, "r": 3, "lora_alpha": 5, "init_lora_weights": False}
    other = {**targets, "r": 3, "alpha": 5, "init_weights": False}
    patterns = {
        "rank_pattern": {"to_q": 2},
        "alpha_pattern": {"conv1": 7, "down_blocks.0.attentions.0.proj_in": 2},
    }
    config = {
        "lora": lambda: peft.LoraConfig(**lora),
        "rslora": lambda: peft.LoraConfig(use_rslora=True, **lora),
        "patterns": lambda: peft.LoraConfig(**patterns, **lora),
        "dora": lambda: peft.LoraConfig(use_dora=True, **lora),
        "bias": lambda: peft.LoraConfig(lora_bias=True, **{**lora, "target_modules": ["proj_in", "conv1"]}),
        "loha": lambda: peft.LoHaConfig(use_effective_conv2d=True, **other),
        "lokr": lambda: peft.LoKrConfig(use_effective_conv2d=True, decompose_both=True, **other),
        "lokr, whole": lambda: peft.LoKrConfig(**{**other, "r": 64}),
    }[kind]()
    torch.manual_seed(3)
    model = peft.get_peft_model(pipe.unet, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.3)
            elif any(part in name for part in ("lora_", "hada_", "lokr_")):
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path)
    pipe.unet = model.merge_and_unload()
    assert compare(classic, [(tmp_path, 1.0)], pipe, "unet") > 8
