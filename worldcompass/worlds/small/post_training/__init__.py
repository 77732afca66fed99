"""Post-training and evaluation of a small world: the parts that are the same for every one."""
