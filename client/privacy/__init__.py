"""The privacy of what leaves a site: noise, accounting, the ledger, the verifier, the attack."""
