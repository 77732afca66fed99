"""The networks of the Hands world."""
