"""Everything that is known of a model's folder, as plain data for a report."""
