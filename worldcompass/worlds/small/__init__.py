"""A kit for small video worlds: recordings, autoencoder, chunk-causal transformer, the contract, pretraining."""
