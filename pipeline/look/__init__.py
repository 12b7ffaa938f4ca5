"""What a folder holds: `make new` looks, proves it by reading, writes the first configs."""
