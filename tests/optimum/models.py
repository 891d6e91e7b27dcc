"""Small pipelines with random weights for the families that are exported by tracing, and for SDXL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests import tiny

_LEVELS = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


def clip(layers: int, width: int = 16, projection: int | None = None) -> Any:
    """A CLIP text encoder whose vocabulary is that of :mod:`tests.tiny`."""
    vocab, _ = tiny.vocabulary()
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=tiny.LENGTH, bos_token_id=vocab[tiny.START],
        eos_token_id=vocab[tiny.END], pad_token_id=vocab[tiny.END], projection_dim=projection or width,
    )  # fmt: skip
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return kind(config).eval()


def words(folder: Path) -> Any:
    """CLIP's tokenizer with the small vocabulary."""
    return transformers.CLIPTokenizer.from_pretrained(str(tiny.write_tokenizer(folder)))


def pieces(folder: Path) -> Any:
    """A tokenizer in T5's form: whole words, padded with 0 and closed with 1."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    listed = ["<pad>", "</s>", "<unk>", *sorted(set(tiny.CORPUS.split()))]
    bare = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(listed)}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    bare.save(str(folder / "tokenizer.json"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", model_max_length=tiny.LENGTH,
    )  # fmt: skip


def t5(width: int = 16) -> Any:
    """T5's encoder, with enough entries for :func:`pieces`."""
    config = transformers.T5Config(
        vocab_size=128, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return transformers.T5EncoderModel(config).eval()


def autoencoder(channels: int) -> Any:
    """An autoencoder with one halving."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        shift_factor=0.0609 if channels == 16 else None,
    ).eval()  # fmt: skip


def saved(pipe: Any, folder: Path) -> Any:
    """Save a pipeline and return it, silent."""
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe


def stable_diffusion_xl(folder: Path, refiner: bool = False) -> Any:
    """Two text encoders, one of them pooled, and sizes; a refiner has one encoder, and a score."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        **_LEVELS, attention_head_dim=2, use_linear_projection=True,
        cross_attention_dim=24 if refiner else 40,
        transformer_layers_per_block=(1, 1), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=(5 if refiner else 6) * 8 + 12,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(**{k: v for k, v in tiny.SCHEDULER.items() if k != "_class_name"})
    parts: dict[str, Any] = {
        "vae": autoencoder(4), "text_encoder": clip(2), "text_encoder_2": clip(3, 24, 12),
        "tokenizer": words(folder / "words"), "tokenizer_2": words(folder / "words"), "unet": unet.eval(),
        "scheduler": scheduler, "force_zeros_for_empty_prompt": not refiner, "add_watermarker": False,
    }  # fmt: skip
    if not refiner:
        return saved(diffusers.StableDiffusionXLPipeline(**parts), folder)
    parts |= {"text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True}
    return saved(diffusers.StableDiffusionXLImg2ImgPipeline(**parts), folder)


def stable_diffusion_3(folder: Path) -> Any:
    """Three text encoders and a transformer of two streams."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=16, out_channels=16, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=28,
        pos_embed_max_size=16,
    )  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16), text_encoder=clip(2, 16, 16), text_encoder_2=clip(2, 24, 12),
        text_encoder_3=t5(40), tokenizer=words(folder / "words"), tokenizer_2=words(folder / "words"),
        tokenizer_3=pieces(folder / "pieces"),
    )  # fmt: skip
    return saved(pipe, folder)


def flux(folder: Path, guided: bool = True) -> Any:
    """CLIP's pooled state, T5's states, and a transformer over packed latents."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )  # fmt: skip
    pipe = diffusers.FluxPipeline(
        transformer=transformer.eval(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(4), text_encoder=clip(2), text_encoder_2=t5(32), tokenizer=words(folder / "words"),
        tokenizer_2=pieces(folder / "pieces"),
    )  # fmt: skip
    return saved(pipe, folder)


def sana(folder: Path) -> Any:
    """Gemma's states, a transformer with linear attention, and a deep-compression autoencoder."""
    torch.manual_seed(0)
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
        caption_channels=8, sample_size=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1], downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    text = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=128,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            attn_implementation="eager",
        )
    )
    tokenizer = pieces(folder / "pieces")
    pipe = diffusers.SanaPipeline(
        transformer=transformer.eval(),
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return saved(pipe, folder)


def aura_flow(folder: Path) -> Any:
    """A family that Optimum has no configuration for, and PyTorch's exporter traces."""
    torch.manual_seed(0)
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16,
        out_channels=4, pos_embed_max_size=64,
    )  # fmt: skip
    config = transformers.UMT5Config(
        vocab_size=128, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    pipe = diffusers.AuraFlowPipeline(
        tokenizer=pieces(folder / "pieces"), text_encoder=transformers.UMT5EncoderModel(config).eval(),
        vae=autoencoder(4), transformer=transformer.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
    )  # fmt: skip
    return saved(pipe, folder)


def pixart(folder: Path) -> Any:
    """A family that neither Optimum nor PyTorch's exporter traces."""
    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=32, in_channels=4, cross_attention_dim=16, out_channels=8,
        attention_bias=True, norm_type="ada_norm_single", norm_elementwise_affine=False,
    )  # fmt: skip
    pipe = diffusers.PixArtSigmaPipeline(
        transformer=transformer.eval(),
        vae=autoencoder(4),
        text_encoder=t5(32),
        tokenizer=pieces(folder / "pieces"),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    return saved(pipe, folder)
