"""Training of the Hands critics on recordings, and their accuracy against the truth."""
