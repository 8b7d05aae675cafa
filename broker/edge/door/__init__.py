"""What all wires share of serving sockets: waiting cheaply, deadlines, the least rate of a peer, fair shares, TLS."""
