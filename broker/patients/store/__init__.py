"""Patients in SQL: what happened, and its present state."""
