"""Images in: bundled demo data and sample files."""
