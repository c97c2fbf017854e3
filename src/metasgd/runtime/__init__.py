"""The process and the host: signals, other processes, memory."""
