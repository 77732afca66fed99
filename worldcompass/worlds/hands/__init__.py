"""Hands: a gripper over a table with a cup, a ball, a block and a bottle."""
