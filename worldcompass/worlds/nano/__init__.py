"""Nano World Models: small diffusion-forcing transformers over frames of robots and games."""
