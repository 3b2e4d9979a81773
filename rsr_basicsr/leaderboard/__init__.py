"""The leaderboard: entries of benchmarks, read from files that may come from anywhere, and the table of them."""
