"""Waypoint-1: a frame-causal world model with ring caches, played by keyboard and mouse."""
