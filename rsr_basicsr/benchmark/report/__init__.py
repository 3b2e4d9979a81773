"""What becomes of the records of a benchmark: tables, verdict, charts, page, leaderboard."""
