"""Methods that see the forget set and its tickets, one file each."""
