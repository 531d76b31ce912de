"""Search: the core (search, proposals, journal) knows nothing of where trials run; `local` runs them here."""
