"""The networks of the Doom world."""
