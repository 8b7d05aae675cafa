"""What browsers and monitoring read: health and services."""
