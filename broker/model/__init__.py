"""Values every floor may use: identifiers, errors, transaction rows, ports. No I/O, no libraries."""
