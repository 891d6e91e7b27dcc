"""Models that predict v with a terminal SNR of zero, as Stable Diffusion 2 and others do, against diffusers.

The network is of the second version's shape: linear projections, heads by level, a text encoder whose last
layer was left out when it was published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.edgediff.xl_pictures import difference, exporter, generators, picture

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

OPTIONS: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 7.5, "output_type": "np"}


def second_version(folder: Path, scheduler: Any, _: str) -> Any:
    """Save a pipeline of that kind to ``folder`` and return it."""
    vocab, _ = tiny.vocabulary()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(tiny.write_tokenizer(folder / "words")))
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=3, hidden_act="gelu",
        num_attention_heads=2, max_position_embeddings=tiny.LENGTH, bos_token_id=vocab[tiny.START],
        eos_token_id=vocab[tiny.END], pad_token_id=vocab[tiny.END], projection_dim=16,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=(2, 4), use_linear_projection=True, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), upcast_attention=True,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8, 8), norm_num_groups=4, sample_size=64, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=transformers.CLIPTextModel(text).eval(), tokenizer=tokenizer,
        unet=unet.eval(), scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = exporter(tmp_path_factory.mktemp, "Stable Diffusion 2, v-prediction")
    get = next(made)
    yield lambda name: get(name, of=second_version)
    next(made, None)


@pytest.mark.parametrize("name", ["ddim-v", "euler-v", "ancestral-v"])
@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"guidance_rescale": 0.7}, {"height": 72}])
def test_from_text(exported: Any, name: str, options: dict[str, Any]) -> None:
    reference, pipe = exported(name)
    prompts = ["red circle", "a blue cat"]
    given = {**OPTIONS, "height": 64, "width": 88, **options}
    expected = reference(prompts, generator=generators(3), **given).images
    assert difference(expected, pipe(prompts, seed=3, **given).images) <= 2


@pytest.mark.parametrize("name", ["ddim-v", "euler-v"])
def test_from_a_picture(exported: Any, name: str) -> None:
    reference, pipe = exported(name)
    same = diffusers.StableDiffusionImg2ImgPipeline(**reference.components, requires_safety_checker=False)
    same.set_progress_bar_config(disable=True)
    options = {**OPTIONS, "strength": 0.7}
    expected = same("red circle", image=picture(), generator=generators(1), **options).images
    assert difference(expected, pipe.image2image("red circle", picture(), seed=1, **options).images) <= 2
