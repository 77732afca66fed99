"""Parts that adapters of open checkpoints share: files, weights, starts, recipe, evaluation, judge, player."""
