"""Images in: folders, IDX and NumPy files, their preprocessing, and the bundled demo data."""
