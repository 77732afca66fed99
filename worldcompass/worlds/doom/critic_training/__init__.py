"""Training and testing of the Doom world's critics and judge."""
