"""Methods that see the forget set alone, one file each."""
