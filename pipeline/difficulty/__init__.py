"""Which rows are hard, and whose labels may be wrong: two questions, never one number."""
