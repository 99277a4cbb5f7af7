"""What messages between server and clients carry: weights, scalars, and their sizes in bytes."""
