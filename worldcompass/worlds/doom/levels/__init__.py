"""Levels made from a seed: plans, textures and the WAD files that the engine loads."""
