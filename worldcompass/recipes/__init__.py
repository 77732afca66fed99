"""A run is a Python function that returns a recipe: ``worldcompass train NAME`` or ``my_recipe.py:NAME``."""
