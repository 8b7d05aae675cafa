"""Values every floor may use: identifiers, errors, transaction rows, ports, and files as sources of bytes. No libraries."""
