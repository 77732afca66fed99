"""An inverse-dynamics critic: a network that reads the controls that were given between frames, from pixels."""
