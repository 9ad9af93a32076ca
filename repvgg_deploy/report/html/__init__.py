"""A model's lineage as a page that opens from disk, and as markdown."""
