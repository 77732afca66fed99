"""The world of legible rooms: Doom's engine and cameras, pictures kept sharp by mixing what geometry carries along."""
