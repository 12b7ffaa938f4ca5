"""What the leaderboard will say: of each row, of the submission; and post-processing by it."""
