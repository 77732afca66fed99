"""The ViZDoom engine: episodes, maps, scenarios, truth."""
