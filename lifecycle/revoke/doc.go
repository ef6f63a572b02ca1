// Package revoke sees to it that what a task no longer uses is revoked: all it has when it ends (E1), and what a
// rotation has replaced while it goes on (C2).
//
// # One revocation through it
//
// A session enqueues a whole journal ([Queue.Enqueue], [Queue.EnqueueTask]), replaced leases
// ([Queue.EnqueueLeases]) or an old token with its leases ([Queue.EnqueueToken]). Package journal moves them into
// the state directory's place for pending revocations; from then on they are pending whatever happens to the process,
// and the next one's [New] finds them there.
//
// Each has a goroutine that asks the server, in the foreground and in turns with other tenants, until each lease and
// token is revoked, has ended by itself, or is refused for good. A refusal is reported once a task: only an operator
// can change a policy.
//
// # Invariants
//
//   - What is pending is on disk before Enqueue returns, and removed only when nothing is left to ask for.
//   - A token of Nomad's or the operator's is never revoked, only used; nor is one that a running task goes on with.
//   - A token is revoked before the leases made under it are asked for: they end with it.
//   - Close joins every goroutine; what is pending waits for the next process.
package revoke
