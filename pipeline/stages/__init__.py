"""The spine: one file a stage, one Make target a file; each reads a shelf and writes a shelf."""
