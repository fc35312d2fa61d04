"""Operations on runs, each recomputed from a ledger: status, explain, compare, fork, refilter, tune and export."""
