"""The HTTP server: routes by path, on gunicorn with a worker of our own."""
