"""The ClientApp and what a device computes; clients that lie, for tests of the guard."""
