"""Blind votes on pairs of videos: the sheet, its hidden controls, the form of a rater, the verdict."""
