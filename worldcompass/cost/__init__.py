"""Memory that a run will need, and a profile of its time."""
