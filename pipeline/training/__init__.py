"""The training loop, what it learns from, and what it leaves on the shelf."""
