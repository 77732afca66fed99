"""WorldPlay, interactive video world models: 8B on HunyuanVideo-1.5 and 5B on Wan2.2."""
