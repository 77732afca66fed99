"""The engine side of the embedded world: engine, data, pretraining, critics, judge, scenarios."""
