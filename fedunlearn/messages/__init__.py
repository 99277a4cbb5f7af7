"""What travels between server and clients: records, scalars, and their sizes in bytes."""
