"""Whether two records are one person. Pure."""
