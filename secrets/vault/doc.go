// Package vault is the provider that asks a Vault server, or anything that speaks its API.
//
// One request goes through it so:
//
//	Read ── mountCache: which engine, KV v1 or v2 ──▶ call ── do: one attempt, redirects within the server only ──▶ reply ── unwrap ──▶ answerOf
//	                                                                                              └── refusal: an error of a kind, and what is likely missing
//
// Each call is one attempt, bounded by its context; waiting and trying again is the caller's. What an answer says, not a list of
// engines, decides how a secret is watched; only what is known to be stored is ever polled, for a read of anything else might
// make a credential.
//
// Discover finds what a token's policies grant: from the server's own account of them (an unstable format, so what does not
// parse is refused), without a write, and without reading anything that would make a credential.
//
// This is the only package that imports the Vault API. Errors quote what the server says, but nothing that was sent to it (L4).
package vault
