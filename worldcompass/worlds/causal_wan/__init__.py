"""Worlds of causal Wan2.1 networks: minWM follows a camera, Matrix-Game 2 and ForgeWM a keyboard and a mouse."""
