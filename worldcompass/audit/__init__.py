"""The reward lab: what does a critic know of the truth, what does it overlook, and how can it be cheated?"""
