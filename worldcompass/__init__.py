"""WorldCompass: reinforcement-learning post-training of interactive video world models."""

__version__ = "0.1.0"
