"""Reports of a benchmark: tables, verdict, charts, page and leaderboard."""
