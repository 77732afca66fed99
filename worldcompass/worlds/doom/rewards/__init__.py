"""Rewards for the Doom world."""
