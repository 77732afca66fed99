"""The network of the Hands world: every part of a table is cut out once and moved at once."""
