"""``convert_openvino.py SOURCE OUT fp16|int8|hybrid|tiny`` by optimum-intel, in its own environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import openvino as ov

SAMPLES = 8  # passes that the hybrid form is calibrated on; speed does not depend on it
TEXTS = ["a b c d e f", "g h i j k", "l m n o", "p q r s t u v", "w x y z"]


def tiny(source: str, out: Path) -> None:
    """AutoencoderTiny's decoder where GenAI looks for the full one; it takes scaled latents as they are."""
    import torch
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(source, torch_dtype=torch.float32).eval().requires_grad_(False)

    class Decoder(torch.nn.Module):
        def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
            return vae.decode(latent_sample, return_dict=False)[0]

    model = ov.convert_model(Decoder(), example_input=torch.zeros(1, 4, 64, 64))
    model.reshape([-1, 4, -1, -1])
    model.inputs[0].get_tensor().set_names({"latent_sample"})
    model.outputs[0].get_tensor().set_names({"sample"})
    out.mkdir(parents=True)
    ov.save_model(model, out / "openvino_model.xml")
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 1.0, "latent_channels": 4,
              "block_out_channels": [64, 64, 64, 64], "out_channels": 3, "in_channels": 3}  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))


def whole(source: str, out: Path, form: str) -> None:
    from optimum.exporters.openvino.convert import export_tokenizer
    from optimum.intel import OVStableDiffusionPipeline, OVWeightQuantizationConfig

    quantization = None
    if form == "int8":
        quantization = OVWeightQuantizationConfig(bits=8)
    elif form == "hybrid":
        quantization = OVWeightQuantizationConfig(
            bits=8, dataset=TEXTS, quant_method="hybrid", num_samples=SAMPLES
        )
    exported = (Path(source) / "unet" / "openvino_model.xml").exists()
    given = {"export": not exported, "compile": False, "quantization_config": quantization}
    pipe = OVStableDiffusionPipeline.from_pretrained(source, load_in_8bit=False, **given)
    pipe.save_pretrained(out)
    export_tokenizer(pipe.tokenizer, out / "tokenizer")
    if form == "fp16":
        halve(out)


def halve(out: Path) -> None:
    """Store weights in float16 as ``optimum-cli export openvino --weight-format fp16`` does."""
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": "NO"})  # what is read is written over
    for file in sorted(out.glob("*/openvino_model.xml")):
        model = core.read_model(file)
        ov.save_model(model, file.with_name("halved.xml"), compress_to_fp16=True)
        del model
        file.with_name("halved.xml").replace(file)
        file.with_name("halved.bin").replace(file.with_suffix(".bin"))


if __name__ == "__main__":
    if sys.argv[3] == "tiny":
        tiny(sys.argv[1], Path(sys.argv[2]))
    else:
        whole(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
