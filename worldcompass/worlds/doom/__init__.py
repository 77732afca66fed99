"""The embedded world of the Doom engine."""
