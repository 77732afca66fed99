"""Pretraining of the Doom world."""
