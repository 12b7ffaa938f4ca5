"""From files to what a network sees: decoding, the cache, augmentation, tiles."""
