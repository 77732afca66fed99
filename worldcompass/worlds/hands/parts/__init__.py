"""A second network for the Hands world, in the making: every part is cut out once and moved at once."""
