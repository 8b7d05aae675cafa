"""Processes: the roles, who starts and watches them, how they say that they live."""
