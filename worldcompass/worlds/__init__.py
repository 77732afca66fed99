"""Adapters, one file or folder per world model."""
