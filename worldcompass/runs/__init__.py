"""A run on disk: its folder, files that are whole, metrics, checkpoints, settings, trackers."""
