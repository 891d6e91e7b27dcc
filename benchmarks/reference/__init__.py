"""The reference model: a text-to-image latent diffusion model trained from scratch on drawn pictures."""
