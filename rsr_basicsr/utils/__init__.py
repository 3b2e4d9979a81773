"""Helpers without any knowledge of the rest of the package: errors, files, names, progress, random streams."""
