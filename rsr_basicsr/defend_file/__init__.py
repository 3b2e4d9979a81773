"""What ``rsr defend`` does to an options file."""
