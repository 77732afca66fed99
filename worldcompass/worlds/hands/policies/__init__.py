"""Policies of different quality, and how well a world model says in advance what each is worth in the engine."""
