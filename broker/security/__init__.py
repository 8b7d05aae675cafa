"""Who may call what and see what; one place through which every call of every wire goes."""
