"""The report of a comparison. Takes: results.json's document, and nothing else. Gives: a page, tables, CSV."""
