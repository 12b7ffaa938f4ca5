"""Networks, their heads, and what their scores are compared by."""
