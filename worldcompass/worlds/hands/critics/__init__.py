"""Critics of the Hands world: what a picture shows, read by one small network."""
