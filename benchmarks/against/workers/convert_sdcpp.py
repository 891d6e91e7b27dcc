"""``convert_sdcpp.py SOURCE OUT.gguf f16|q8_0`` by stable-diffusion.cpp itself."""

import sys

from stable_diffusion_cpp import StableDiffusion

source, out, form = sys.argv[1:]
if not StableDiffusion(verbose=False).convert(input_path=source, output_path=out, output_type=form):
    sys.exit("not converted")
