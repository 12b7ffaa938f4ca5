"""Changes to a run, tried out: many short trainings side by side, compared as pairs."""
