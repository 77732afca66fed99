"""Pretraining of a small world on recordings: pictures first, then the world."""
