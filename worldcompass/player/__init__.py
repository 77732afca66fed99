"""The player: walk through worlds in the browser, side by side, and vote on what you see (extra ``web``)."""
