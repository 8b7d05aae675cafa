"""Settings of this installation (`broker.toml`) and facts of the region (`profiles/<region>/`)."""
