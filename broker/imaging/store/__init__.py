"""SQL of the imaging actor: studies and instances, containers, publications, fetches."""
