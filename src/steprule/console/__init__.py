"""What a command speaks with, and what it leaves on disk: text, progress, files, and how it ends.

Takes: words and documents.
Gives: lines on a terminal whose reader may go, files that are whole, an exit code.
Next door: `bench` and `lab`, whose commands these are. It needs click and rich, and nothing else of the lab's.
"""
