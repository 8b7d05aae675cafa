"""XDS.b Document Repository."""
