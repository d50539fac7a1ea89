"""The playground: one page, without a network, in which rules are edited and seen to run."""
