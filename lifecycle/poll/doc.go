// Package poll finds out when a static secret changes, with as few requests as can be (C5).
//
// # One secret through it
//
// A session subscribes with a key (what is polled) and the digest of what its task has. One goroutine starts each
// path's poll when it is due; it waits for its turn in the limiter, without a goroutine, reads with the token of one
// subscriber, and compares digests. Those that have something else are notified: they read for themselves, with
// their own token, and then mark what they have seen.
//
// Where the provider can wait (wait.go), a wait for another revision takes the place of a poll's read, and revisions that of
// digests. It is sent with the rights of one subscriber; when that one leaves, is refused, or
// gets no answer for what may be of its own (secrets.IsOfAsker), the next one's turn is at once. A wait takes a minute, less for a live
// directory that needs looks more often (live.go), and hardly any time after a failure.
//
// A key with an owner, which is opaque here, is shared with nobody: it is of a secret that another token finds
// something else at.
//
// A look is a poll or a wait that the server answered. That nothing is at the path (404) is an answer; a refusal (403) is
// none, for it tells nothing of the secret.
//
// # Invariants
//
//   - One poll a key and interval, or one wait a key, however many subscribe; its content goes to nobody.
//   - A subscriber is notified once of the same content.
//   - Nothing is polled that is not a static secret: each read might make a credential.
//   - Close joins all goroutines.
package poll
