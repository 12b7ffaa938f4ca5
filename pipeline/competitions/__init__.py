"""What differs from competition to competition: reading its tables, writing its submission."""
