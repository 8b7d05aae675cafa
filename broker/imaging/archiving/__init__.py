"""Between the tiers: studies are packed into containers, their online copies dropped, leftovers swept, caches evicted."""
