"""What the system tests share: a CA, a Workload API server, TLS peers."""
