"""What a person sees of a comparison. Takes: results.json's document, and nothing else. Gives: a page, tables, CSV."""
