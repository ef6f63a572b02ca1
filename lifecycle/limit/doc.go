// Package limit decides when a plugin's requests go to the secrets server, so that no job delays another's
// (C11).
//
// A request names its tenant, the job it is for, and is of one of three classes:
//
//   - Background requests (renewals, rotations, polls, checks) share the operator's request rate. They wait
//     by priority (Renew, Rotate, Poll), and within a priority tenants take turns (turns.go).
//   - Looks at secrets that are being read in live directories (live.go) share the rate with them: they take half of it at
//     most, and go before what is not for keeping credentials alive.
//   - Foreground requests (starts and revocations) are outside the rate; a number of slots bounds how many go at
//     once (slots.go). A slow one leaves its slot, so that a database that hangs takes no slot from others; few do while the
//     server as a whole is slow.
//
// By what all requests tell of a server as a whole (Answered) the limiter follows what it can take (pace.go): a server that is
// away, overloaded or limits requests gets fewer, but for those that keep alive what ends soon. Each server has a pace of its
// own, and what hangs behind one of its engines says nothing of it. A 429 is first of all its tenant's (quotas.go).
//
// # Invariants
//
//   - Two background requests are never closer together than the rate allows.
//   - A tenant that waits gets its turn within a round, however much others ask for; a lower priority gets one
//     turn in eight.
//   - The decisions (turns, ranks, slots) are pure; the Limiter adds the lock and the timers. It has no goroutine of
//     its own: one that waits does so in its caller, or (Queue) in none at all.
package limit
