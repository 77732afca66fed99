"""Critics over HTTP."""
