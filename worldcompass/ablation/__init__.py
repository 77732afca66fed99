"""Does each part of a method earn its place? A grid of recipes over seeds, on equal compute."""
