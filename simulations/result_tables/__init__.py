"""Tables of every corpus and recogniser: what methods leave behind, and whether the recipe trains well."""
