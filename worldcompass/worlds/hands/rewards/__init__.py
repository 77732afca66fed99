"""Rewards of the Hands world, read from pixels by the network of ``critics``."""
