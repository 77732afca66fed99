"""Pictures, videos, charts and progress bars."""
