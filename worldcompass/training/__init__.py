"""The method: imagine, score, compare, choose, update."""
