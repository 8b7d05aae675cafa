"""What processes tell each other and may forget: announcements, locks, wake-ups. Redis, or this machine's own files."""
