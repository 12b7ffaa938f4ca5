"""The proof that nothing saw what it must not: receipts, rows and fitted numbers, read again."""
