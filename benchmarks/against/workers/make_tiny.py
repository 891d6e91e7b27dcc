"""``make_tiny.py OUT``: an AutoencoderTiny of the published size with random weights."""

import sys

import torch
from diffusers import AutoencoderTiny

torch.manual_seed(0)
AutoencoderTiny().half().save_pretrained(sys.argv[1])
