"""A device's store, its index, and the search for traces of deleted recordings."""
