"""One module per command: ``add_arguments(parser)``, ``run(args)`` and an ``EXAMPLES`` text for its help.

A command's module imports nothing heavy at the top, which keeps help quick; ``run`` imports what it uses.
"""
