"""The player: walk through worlds in the browser, compare them, and vote on clips (extra ``web``)."""
