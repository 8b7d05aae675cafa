"""Files of a POSIX system: sources of bytes, digests beside the work, durable names, temporary files, who may read them."""
