# Nothing: Vault's default policy has a token's own cubbyhole.
