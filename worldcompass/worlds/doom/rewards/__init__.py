"""Rewards that know the Doom world."""
