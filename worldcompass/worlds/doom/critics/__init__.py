"""Networks that read pixels of the Doom world: critics and the held-out judge."""
