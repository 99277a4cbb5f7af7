"""The figures of docs/measures.md: worked examples, and their drawing."""
