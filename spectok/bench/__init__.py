"""spectok beside its rivals: every codec over the same files, quality and costs, on one page."""
