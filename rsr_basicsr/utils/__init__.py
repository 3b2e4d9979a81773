"""What every room needs and what knows of none: errors, files, progress, random streams."""
