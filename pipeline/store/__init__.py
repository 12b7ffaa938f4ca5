"""Configs, file names, receipts, the Make graph and tracking: what every stage stands on."""
