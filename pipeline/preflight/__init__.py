"""What a careful engineer looks at before a night of training."""
