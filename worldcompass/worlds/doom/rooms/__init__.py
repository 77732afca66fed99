"""The world of legible rooms: Doom's engine and cameras, and pictures mixed of what geometry carries along."""
