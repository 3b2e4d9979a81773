"""What there is to choose from, by name: known without torch, for the command line."""
